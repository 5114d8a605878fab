// A carrier in LiveKit as an operator sets it up: `provision` and `failover` as processes, against LiveKit's API on a
// socket and a PostgreSQL database.

import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { type LiveKitApi, refuse, startLiveKitApi } from "../support/livekit-api.ts"
import { makeSipApi } from "../support/livekit-sip.ts"
import { ownRuntime, type Runtime, runtimes, start } from "../support/processes.ts"
import { apiKey, apiSecret } from "../support/service.ts"

// Each runs several processes, one after the other.
const long = { timeout: 90_000 }

const did = "+15557654321"
const second = "+15557654322"
const later = "+15557654323"

let directory: string
let database: PostgresDatabase
let api: LiveKitApi
const sip = makeSipApi()

const keys = { LIVEKIT_API_KEY: apiKey, LIVEKIT_API_SECRET: apiSecret }

const run = async (
  name: string,
  args: ReadonlyArray<string>,
  env: Record<string, string>,
  runtime: Runtime = ownRuntime,
) => {
  const { exited, output } = start(runtime, `commands/${name}.ts`, { args, env, cwd: directory })
  const code = await exited
  expect(output()).not.toMatch(/eyJ|hunter2|devsecret|postgres:test|\n {4}at /)
  return { code, output: output() }
}

/** The methods that change something, in their order. */
const changes = () => api.requests.map(({ method }) => method).filter((method) => !method.startsWith("List"))

const stored = async () =>
  (
    await database.query<{ trunk: string | null; rule: string | null }>(
      "SELECT lk_inbound_trunk_id AS trunk, lk_dispatch_rule_id AS rule FROM carriers WHERE name = 'Acme'",
    )
  )[0]

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "switchhook-provision-"))
  api = await startLiveKitApi({ key: apiKey, secret: apiSecret, services: sip.services })
  database = await makePostgresDatabase()
  expect(await run("migrate", [], database.env)).toMatchObject({ code: 0 })
})
afterAll(async () => {
  await api?.stop()
  await database?.drop()
  await rm(directory, { recursive: true, force: true })
})

beforeEach(async () => {
  await database.query("DELETE FROM dids")
  await database.query("DELETE FROM carriers")
  await database.query("INSERT INTO carriers (name) VALUES ('Acme'), ('Other')")
  await database.query(
    `INSERT INTO dids (number, raw_number, carrier_id, position)
     SELECT n, n, c.id, p FROM carriers c, unnest($1::text[]) WITH ORDINALITY AS d (n, p) WHERE c.name = 'Acme'`,
    [[did, second]],
  )
})
afterEach(() => {
  sip.clear()
  for (const method of Object.keys(api.behaviour)) delete api.behaviour[method]
})

const provision = (args: ReadonlyArray<string> = [], env: Record<string, string> = {}, runtime?: Runtime) => {
  ;(api.requests as Array<unknown>).length = 0
  const all = { ...database.env, ...keys, LIVEKIT_URL: api.url, ...env }
  return run("provision", ["--carrier", "Acme", ...args], all, runtime)
}

describe("provision", () => {
  it.each(runtimes)("makes a trunk and a rule, and changes nothing the second time (%s)", async (runtime) => {
    const first = await provision(["--allow", "203.0.113.0/24", "--allow", "198.51.100.7"], {}, runtime)
    expect(first.output).toContain(`+ numbers: ${did}`)
    expect(first.output).toContain("+ allowed addresses: 198.51.100.7")
    expect(first.output).toContain("+ room prefix: call-")
    expect(first.output).not.toContain("Mind")
    expect(first.code).toBe(0)
    expect(changes()).toEqual(["CreateSIPInboundTrunk", "CreateSIPDispatchRule"])
    const [trunk] = sip.trunks()
    expect(trunk).toMatchObject({
      name: "Acme",
      numbers: [did, second],
      allowedAddresses: ["203.0.113.0/24", "198.51.100.7"],
      authUsername: "",
    })
    const [rule] = sip.rules()
    expect(rule).toMatchObject({
      trunkIds: [trunk!.sipTrunkId],
      rule: { dispatchRuleIndividual: { roomPrefix: "call-", pin: "" } },
      roomConfig: null,
    })
    expect(await stored()).toEqual({ trunk: trunk!.sipTrunkId, rule: rule!.sipDispatchRuleId })

    const again = await provision([], {}, runtime)
    expect(again).toMatchObject({ code: 0, output: expect.stringContaining("there was nothing to change") })
    expect(changes()).toEqual([])
  })

  it("changes only what somebody's hand has changed", async () => {
    await provision(["--allow", "203.0.113.0/24"])
    const [trunk] = sip.trunks()
    const [rule] = sip.rules()
    sip.putTrunk({ ...trunk!, numbers: [did, later], metadata: "theirs" })
    sip.putRule({ ...rule!, name: "Inbound", hidePhoneNumber: true, attributes: { tier: "gold" } })

    const repaired = await provision()
    expect(repaired.code).toBe(0)
    expect(repaired.output).toMatch(/- numbers: \+15557654323\n {2}\+ numbers: \+15557654322\n/)
    expect(changes()).toEqual(["UpdateSIPInboundTrunk"])
    expect(api.requests.find(({ method }) => method === "UpdateSIPInboundTrunk")?.body).toEqual({
      sipTrunkId: trunk!.sipTrunkId,
      update: { numbers: { set: [did, second] } },
    })
    expect(sip.trunks()).toEqual([{ ...trunk, metadata: "theirs" }])

    sip.putRule({
      ...sip.rules()[0]!,
      rule: { dispatchRuleCallee: { roomPrefix: "x-", pin: "9", randomize: true } },
    })
    const mended = await provision()
    expect(mended.output).toContain("- kind: callee")
    expect(changes()).toEqual(["UpdateSIPDispatchRule"])
    // What is none of ours stays.
    expect(sip.rules()).toEqual([
      { ...rule, name: "Inbound", hidePhoneNumber: true, attributes: { tier: "gold" } },
    ])
  })

  it("takes agents off a rule of ours, and says so before it does", async () => {
    await provision(["--allow", "203.0.113.0/24"])
    const roomConfig = { emptyTimeout: 60, agents: [{ agentName: "helper", metadata: "" }] }
    sip.putRule({ ...sip.rules()[0]!, roomConfig })
    const dry = await provision(["--dry-run"])
    expect(dry).toMatchObject({ code: 0, output: expect.stringContaining("two agents would join") })
    expect(changes()).toEqual([])
    const mended = await provision()
    expect(mended.output.indexOf("two agents")).toBeLessThan(mended.output.indexOf("Changed the rule"))
    expect(sip.rules()[0]?.roomConfig).toEqual({ emptyTimeout: 60, agents: [] })
  })

  it("shows what it would do, and does nothing of it", async () => {
    const dry = await provision(["--dry-run", "--username", "acme", "--password-env", "ACME"], {
      ACME: "hunter2",
    })
    expect(dry).toMatchObject({ code: 0, output: expect.stringContaining("Nothing was changed (--dry-run)") })
    expect(dry.output).toContain("+ username: acme")
    expect(changes()).toEqual([])
    expect(await stored()).toEqual({ trunk: null, rule: null })
  })

  it("gives a trunk a password, and warns of one without any protection", async () => {
    const open = await provision()
    expect(open).toMatchObject({ code: 0, output: expect.stringContaining("takes calls from anybody") })
    const shut = await provision(["--username", "acme", "--password-env", "ACME"], { ACME: "hunter2" })
    expect(shut.output).not.toContain("anybody")
    expect(sip.trunks()).toMatchObject([
      { authUsername: "acme", authPassword: "hunter2", numbers: [did, second] },
    ])
    await provision(["--username", "acme", "--password-env", "ACME"], { ACME: "hunter2" })
    expect(changes()).toEqual([])
  })

  it("is refused where another trunk has the number, and says which", async () => {
    sip.putTrunk({
      sipTrunkId: "ST_old",
      name: "Old one",
      numbers: [second],
      allowedAddresses: ["192.0.2.1"],
    })
    const refused = await provision(["--allow", "203.0.113.0/24"])
    expect(refused.code).toBe(1)
    expect(refused.output).toContain(`Refused: The trunk ST_old "Old one" has ${second}, too`)
    expect(refused.output).toContain("Nothing was changed.")
    expect(changes()).toEqual([])
    // As the remedy has it: the trunk is this carrier's. What else it takes is not given up unasked.
    sip.putTrunk({ sipTrunkId: "ST_old", numbers: [second, later] })
    const careful = await provision(["--trunk", "ST_old"])
    expect(careful).toMatchObject({
      code: 1,
      output: expect.stringContaining(`takes ${later}, and would no longer`),
    })
    sip.putTrunk({ sipTrunkId: "ST_old", numbers: [second] })
    const adopted = await provision(["--trunk", "ST_old"])
    expect(adopted.code).toBe(0)
    expect(changes()).toEqual(["UpdateSIPInboundTrunk", "CreateSIPDispatchRule"])
    expect(await stored()).toMatchObject({ trunk: "ST_old" })
    expect(sip.trunks()).toMatchObject([{ name: "Old one", numbers: [did, second] }])
  })

  it("is refused where another rule has the calls, and names those that come first", long, async () => {
    await provision(["--allow", "203.0.113.0/24"])
    const [trunk] = sip.trunks()
    const vip = {
      sipDispatchRuleId: "SDR_vip",
      name: "VIP",
      trunkIds: [trunk!.sipTrunkId],
      inboundNumbers: ["+15550009999"],
    }
    sip.putRule(vip)
    const named = await provision()
    expect(named.code).toBe(0)
    expect(named.output).toContain('Mind: The rule SDR_vip "VIP" takes calls before ours')
    sip.putRule({
      ...vip,
      roomConfig: { emptyTimeout: 0, agents: [{ agentName: "concierge", metadata: "" }] },
    })
    const refused = await provision()
    expect(refused.code).toBe(1)
    expect(refused.output).toMatch(/Refused: The rule SDR_vip "VIP" .* dispatches agents itself .*concierge/)
  })

  it("goes on where it was interrupted", long, async () => {
    api.behaviour["CreateSIPDispatchRule"] = refuse("unavailable")
    const half = await provision(["--allow", "203.0.113.0/24"])
    expect(half).toMatchObject({
      code: 1,
      output: expect.stringContaining("LiveKit refused the request (503 unavailable)."),
    })
    expect(await stored()).toEqual({ trunk: sip.trunks()[0]?.sipTrunkId, rule: null })
    delete api.behaviour["CreateSIPDispatchRule"]
    expect(await provision()).toMatchObject({ code: 0 })
    expect(changes()).toEqual(["CreateSIPDispatchRule"])
    // As it is when the ids could not be stored.
    await database.query("UPDATE carriers SET lk_inbound_trunk_id = NULL, lk_dispatch_rule_id = NULL")
    const found = await provision()
    expect(found).toMatchObject({ code: 0, output: expect.stringContaining("has the carrier's name") })
    expect(changes()).toEqual([])
    expect((await stored())?.rule).toBe(sip.rules()[0]?.sipDispatchRuleId)
  })

  it("says what is wrong with the database, or with the carrier in it", async () => {
    const empty = await makePostgresDatabase()
    try {
      expect(await provision([], empty.env)).toMatchObject({
        code: 1,
        output: "The database is not up to date: npm run migrate\n",
      })
    } finally {
      await empty.drop()
    }
    await database.query("UPDATE carriers SET archived_at = now()")
    expect(await provision()).toMatchObject({ code: 1, output: 'The carrier "Acme" is archived.\n' })
    expect(api.requests.filter(({ method }) => !method.startsWith("List"))).toEqual([])
  })

  it.each<[string, ReadonlyArray<string>, Record<string, string>, string]>([
    ["an unknown carrier", ["--carrier", "Acne"], {}, 'no carrier "Acne". There is "Acme", "Other".'],
    ["a carrier without numbers", ["--carrier", "Other"], {}, "The carrier has no numbers"],
    ["an unknown trunk", ["--carrier", "Acme", "--trunk", "ST_no"], {}, "LiveKit has no inbound trunk ST_no"],
    ["a bad network", ["--carrier", "Acme", "--allow", "example.org"], {}, "an address or network"],
    ["half of the credentials", ["--carrier", "Acme", "--username", "acme"], {}, "go together"],
    [
      "a password that is not there",
      ["--carrier", "Acme", "--username", "acme", "--password-env", "NOWHERE"],
      {},
      "there is no NOWHERE",
    ],
    [
      "a wrong secret",
      ["--carrier", "Acme"],
      { LIVEKIT_API_SECRET: "wrong".repeat(8) },
      "does not accept the key",
    ],
    [
      "nobody there",
      ["--carrier", "Acme"],
      { LIVEKIT_URL: "ws://127.0.0.1:9" },
      "cannot be reached (refused)",
    ],
    ["no LiveKit", ["--carrier", "Acme"], { LIVEKIT_URL: "" }, "LIVEKIT_URL is not set"],
    ["no carrier", [], {}, "--carrier"],
  ])("says what is wrong with %s", async (_, args, env, complaint) => {
    const all = { ...database.env, ...keys, LIVEKIT_URL: api.url, ...env }
    const { code, output } = await run("provision", args, all)
    expect(output).toContain(complaint)
    expect(code).toBe(1)
  })
})

describe("failover", () => {
  // No database answers there.
  const unreachable = { DATABASE_URL: "postgres://me:hunter2@127.0.0.1:1/x" }

  const failover = (args: ReadonlyArray<string>, env: Record<string, string> = {}, runtime?: Runtime) => {
    ;(api.requests as Array<unknown>).length = 0
    const all = { ...database.env, ...keys, LIVEKIT_URL: api.url, FALLBACK_AGENT: "spare", ...env }
    return run("failover", args, all, runtime)
  }

  const provisioned = async () => {
    await provision(["--allow", "203.0.113.0/24"])
    sip.putRule({ ...sip.rules()[0]!, attributes: { tier: "gold" } })
    return { trunk: sip.trunks()[0]!, rule: sip.rules()[0]! }
  }

  it.each(runtimes)("goes on, says so, and goes off, with the same ids (%s)", long, async (runtime) => {
    const { rule, trunk } = await provisioned()
    const acme = ["--carrier", "Acme"]
    expect(await failover(["status", ...acme], {}, runtime)).toMatchObject({
      code: 0,
      output: expect.stringContaining("failover is off"),
    })
    const on = await failover(["on", ...acme], {}, runtime)
    expect(on).toMatchObject({
      code: 0,
      output: expect.stringContaining("failover is on, LiveKit sends spare"),
    })
    expect(sip.rules()).toEqual([
      {
        ...rule,
        rule: { dispatchRuleIndividual: { roomPrefix: "failover-", pin: "" } },
        roomConfig: { emptyTimeout: 0, agents: [{ agentName: "spare", metadata: "" }] },
      },
    ])
    const twice = await failover(["on", ...acme], {}, runtime)
    expect(twice).toMatchObject({ code: 0, output: expect.stringContaining("nothing was changed") })
    expect(changes()).toEqual([])
    expect((await failover(["status", ...acme], {}, runtime)).output).toContain("failover is on")
    // Meanwhile the rule is not provision's.
    const during = await provision()
    expect(during).toMatchObject({ code: 0, output: expect.stringContaining("Failover is on") })
    expect(changes()).toEqual([])

    expect(await failover(["off", ...acme], {}, runtime)).toMatchObject({
      code: 0,
      output: expect.stringContaining("failover is off, calls go to Switchhook"),
    })
    expect(sip.rules()).toEqual([{ ...rule, roomConfig: { emptyTimeout: 0, agents: [] } }])
    expect(await stored()).toEqual({ trunk: trunk.sipTrunkId, rule: rule.sipDispatchRuleId })
    const offAgain = await failover(["off", ...acme], {}, runtime)
    expect(offAgain).toMatchObject({ code: 0, output: expect.stringContaining("nothing was changed") })
  })

  it("needs no database with --trunk or LIVEKIT_INBOUND_TRUNK_ID", long, async () => {
    const { trunk } = await provisioned()
    const prefix = () => sip.rules()[0]?.rule.dispatchRuleIndividual?.roomPrefix
    expect(await failover(["on", "--trunk", trunk.sipTrunkId], unreachable)).toMatchObject({ code: 0 })
    expect(prefix()).toBe("failover-")
    const named = { ...unreachable, LIVEKIT_INBOUND_TRUNK_ID: ` ${trunk.sipTrunkId},` }
    expect((await failover(["status"], named)).output).toContain("failover is on")
    expect(await failover(["off"], named)).toMatchObject({ code: 0 })
    expect(prefix()).toBe("call-")
    const carrier = await failover(["on", "--carrier", "Acme"], unreachable)
    expect(carrier).toMatchObject({
      code: 1,
      output: expect.stringContaining("without the database: --trunk"),
    })
  })

  it("switches what it can of several trunks", async () => {
    const { trunk } = await provisioned()
    sip.putTrunk({ sipTrunkId: "ST_bare", numbers: [later] })
    sip.putRule({ sipDispatchRuleId: "SDR_any", trunkIds: [], name: "Everything" })
    const ids = ["--trunk", "ST_gone", "--trunk", "ST_bare", "--trunk", trunk.sipTrunkId]
    const { code, output } = await failover(["on", ...ids], unreachable)
    expect(code).toBe(1)
    expect(output).toContain("The trunk ST_gone is not in LiveKit.")
    expect(output).toMatch(/ST_bare has no rule of its own.*Its calls go to SDR_any "Everything"/)
    expect(output).toContain("failover is on")
    expect(changes()).toEqual(["UpdateSIPDispatchRule"])
    expect((await failover(["status", ...ids])).code).toBe(0)
  })

  it.each<[string, ReadonlyArray<string>, Record<string, string>, string]>([
    ["no agent", ["on", "--trunk", "ST_x"], { FALLBACK_AGENT: "" }, "FALLBACK_AGENT is not set"],
    ["no trunk", ["on"], {}, "Which trunk?"],
    ["both", ["on", "--trunk", "ST_x", "--carrier", "Acme"], {}, "--carrier or --trunk"],
    ["a carrier without a trunk", ["on", "--carrier", "Acme"], {}, "has no trunk yet: npm run provision"],
    ["no such action", ["maybe", "--trunk", "ST_x"], {}, "on"],
  ])("is refused with %s", async (_, args, env, complaint) => {
    const { code, output } = await failover(args, env)
    expect(output).toContain(complaint)
    expect(code).toBe(1)
    expect(api.requests).toEqual([])
  })
})
