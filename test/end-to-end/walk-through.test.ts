// The walk-through of the README, pasted into a shell as it stands. Only its ports are replaced by free ones.

import { mkdtemp, readFile, rm, symlink } from "node:fs/promises"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { beforeEach, describe, expect, it } from "vitest"
import { freePorts } from "../support/ports.ts"
import { root } from "../support/processes.ts"
import { openShell, type Shell } from "../support/shell.ts"
import { eventually } from "../support/waiting.ts"

const servicePort = "3000"
const ports = [servicePort, "9001", "9002"]

/** A block to paste, and the lines that it is said to print. */
interface Step {
  readonly block: string
  readonly shown: ReadonlyArray<string>
}

const sectionOf = (markdown: string, heading: string) => {
  const after = markdown.split(`\n## ${heading}\n`)[1]
  return after?.split(/^#{1,3} /m)[0] ?? ""
}

const stepsOf = (section: string): ReadonlyArray<Step> => {
  const steps: Array<Step> = []
  for (const [, language, text = ""] of section.matchAll(/^```(\w*)\n(.*?)^```$/gms)) {
    if (language === "sh") steps.push({ block: text, shown: [] })
    const last = steps.at(-1)
    if (language === "text" && last !== undefined)
      steps.splice(-1, 1, { ...last, shown: text.trimEnd().split("\n") })
  }
  return steps
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")

/** Every line of the README among those that were printed, in its order; `…` is anything. */
const expectShown = (output: string, shown: ReadonlyArray<string>) => {
  let lines = output.split("\n")
  for (const line of shown) {
    const pattern = new RegExp(`^${line.split("…").map(escaped).join(".*")}$`)
    expect(lines).toContainEqual(expect.stringMatching(pattern))
    lines = lines.slice(lines.findIndex((printed) => pattern.test(printed)) + 1)
  }
}

const listens = (port: string) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(Number(port), "127.0.0.1")
    const end = (connected: boolean) => {
      socket.destroy()
      resolve(connected)
    }
    socket.once("connect", () => end(true)).once("error", () => end(false))
  })

const readSteps = async () => stepsOf(sectionOf(await readFile(`${root}README.md`, "utf8"), "A walk-through"))

/** The steps on free ports, and what each port of the README has become. All of them must occur, and no other. */
const onFreePorts = async (steps: ReadonlyArray<Step>) => {
  const free = (await freePorts(ports.length)).map(String)
  const becomes = (port: string) => free[ports.indexOf(port)]!
  const named = steps.flatMap(({ block }) => block.match(/(?<=127\.0\.0\.1:)\d+/g) ?? [])
  expect([...new Set(named)].sort()).toEqual(ports)
  const any = new RegExp(`\\b(${ports.join("|")})\\b`, "g")
  const replaced = (text: string) => text.replace(any, becomes)
  const moved = steps.map(({ block, shown }) => ({ block: replaced(block), shown: shown.map(replaced) }))
  return { moved, becomes }
}

describe("the walk-through of the README", () => {
  let directory: string
  let shell: Shell
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "switchhook-walk-"))
    // The project, without anybody's settings and data.
    for (const name of ["package.json", "node_modules", "src"])
      await symlink(join(root, name), join(directory, name))
    shell = openShell(directory, {
      PATH: `${root}node_modules/.bin:${process.env["PATH"]}`,
      HOME: process.env["HOME"],
      TMPDIR: directory,
      // Where npm has it anyway: not a new one each time.
      NODE_COMPILE_CACHE: join(tmpdir(), "node-compile-cache"),
      NPM_CONFIG_UPDATE_NOTIFIER: "false",
    })
    return async () => {
      await shell.close()
      await rm(directory, { recursive: true, force: true })
    }
  })

  const paste = async ({ block, shown }: Step) => {
    const { code, output } = await shell.paste(block)
    expect(`${output}\nexit code ${code}`).toMatch(/\nexit code 0$/)
    expectShown(output, shown)
  }

  it("goes from an empty database to an answered call", { timeout: 180_000 }, async () => {
    const { becomes, moved } = await onFreePorts(await readSteps())
    const [workers, service, helpers, ...others] = moved
    const last = others.pop()
    for (const step of [workers, service, helpers]) await paste(step!)

    const token = (await shell.paste('printf %s "$ADMIN_TOKEN"')).output
    const admin = async (path: string) => {
      const url = `http://127.0.0.1:${becomes(servicePort)}/api/v1/admin${path}`
      const response = await fetch(url, { headers: { authorization: `Bearer ${token}` } })
      expect(response.status).toBe(200)
      return JSON.parse(await response.text())
    }
    for (const list of ["/tenants", "/campaigns", "/carriers", "/dids", "/calls"])
      expect((await admin(list)).items).toEqual([])
    await eventually("both workers are up", async () => {
      const { items } = await admin("/workers")
      return items.length === 2 && items.every(({ state }: { state: string }) => state === "up")
    })
    for (const step of others) await paste(step)

    const [tenant, ...noTenant] = (await admin("/tenants")).items
    const [campaign, ...noCampaign] = (await admin("/campaigns")).items
    const [carrier, ...noCarrier] = (await admin("/carriers")).items
    expect([...noTenant, ...noCampaign, ...noCarrier]).toEqual([])
    expect(campaign.tenant_id).toBe(tenant.id)
    const owners = { carrier_id: carrier.id, campaign_id: campaign.id, target: "fleet" }
    const { items: dids } = await admin("/dids")
    expect(dids).toMatchObject([
      { ...owners, number: "+15557654321" },
      { ...owners, number: "+15557654322" },
    ])
    const { items: calls } = await admin("/calls")
    expect(calls).toMatchObject([
      {
        call_id: "SCL_first",
        status: "completed",
        answered_at: expect.any(String),
        answerers: 1,
        outcome: "accepted",
        attempts: 1,
        worker: "worker-2",
        tenant_id: tenant.id,
        campaign_id: campaign.id,
        did_id: dids[1].id,
      },
    ])
    const log = (name: string) => readFile(join(directory, `${name}.log`), "utf8")
    expect(await log("worker-1")).not.toContain("Call from")
    expect((await log("worker-2")).match(/^Call from .*/gm)).toEqual([
      expect.stringMatching(/^Call from \+15551234567 to \+15557654322 in call-/),
    ])
    const { items: back } = await admin("/workers")
    expect(back).toMatchObject([{ draining: false }, { draining: false }])

    await paste(last!)
    for (const port of ports)
      await eventually(`nobody listens in place of ${port}`, async () => !(await listens(becomes(port))))
    expect(await log("switchhook")).toContain("Shutting down")
  })
})
