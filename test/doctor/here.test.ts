// What the doctor finds on our own side: settings, database, fleet and timeouts, each broken in one way.

import { mkdtemp, rm } from "node:fs/promises"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import type { BadSettings } from "../../src/config.ts"
import { checkDatabase } from "../../src/doctor/check-database.ts"
import { checkFleet } from "../../src/doctor/check-fleet.ts"
import { badSettings, checkSettings } from "../../src/doctor/check-settings.ts"
import { checkTimeouts } from "../../src/doctor/check-timeouts.ts"
import type { Finding } from "../../src/doctor/finding.ts"
import { lookAtDatabase } from "../../src/doctor/look-at-database.ts"
import type { World } from "../../src/doctor/world.ts"
import { makePostgresDatabase } from "../support/databases.ts"
import { scratchDirectory } from "../support/scratch.ts"
import { settingsFrom, settingsOf } from "../support/settings.ts"
import { plainHealth, startWorker } from "../support/workers.ts"
import { answering, type Front, onlyPost, startFront } from "./front.ts"
import { databaseWith, type Stage, startStage, storedThings } from "./worlds.ts"

let stage: Stage
beforeAll(async () => {
  stage = await startStage()
})
afterAll(() => stage?.api.stop())
beforeEach(() => stage.reset())

const problem = (severity: Finding["severity"], what: RegExp, fix: string | RegExp) =>
  expect.objectContaining({
    severity,
    what: expect.stringMatching(what),
    why: expect.stringMatching(/\w/),
    fix: expect.stringMatching(fix),
  })

const green = (what: RegExp) =>
  expect.objectContaining({ severity: "ok", what: expect.stringMatching(what), why: "", fix: "" })

describe("settings", () => {
  const found = async (env: Record<string, string> = {}, parts: Partial<World> = {}) =>
    checkSettings(await stage.world(env, parts))

  it("are fit for production", async () => {
    expect(await found()).toEqual([green(/fit for production/)])
  })

  it("cannot be read, and no secret is shown", async () => {
    const env = {
      NODE_ENV: "production",
      PORT: "no",
      LIVEKIT_API_KEY: "k",
      LIVEKIT_API_SECRET: "hunter2",
      FALLBACK_AGENT: "x",
    }
    const bad: BadSettings = await Effect.runPromise(Effect.flip(settingsFrom(env)))
    const findings = badSettings(bad)
    expect(findings).toEqual([
      problem("error", /^PORT: expected a port/, "Set PORT in"),
      problem("error", /^CXB_CORE_SECRET: must be set in production/, "Set CXB_CORE_SECRET in"),
      problem("error", /^DATABASE_URL: must be set/, "Set DATABASE_URL in"),
      problem("error", /^FALLBACK_AGENT: .*LIVEKIT_URL must be set/, "FALLBACK_AGENT"),
    ])
    expect(JSON.stringify(findings)).not.toContain("hunter2")
  })

  it.each<[Record<string, string>, RegExp, string]>([
    [{ ADMIN_TOKEN: "" }, /ADMIN_TOKEN is not set/, "Set ADMIN_TOKEN"],
    [{ SIP_INBOUND_UNSIGNED: "true" }, /SIP_INBOUND_UNSIGNED is true/, "WEBHOOK_SECRET"],
    [{ LIVEKIT_API_SECRET: "short" }, /has less than 32 characters/, "Make a new key"],
    [{ NODE_ENV: "development" }, /NODE_ENV is not production/, "NODE_ENV=production"],
  ])("work, but should not stay so: %j", async (env, what, fix) => {
    expect(await found(env)).toEqual([problem("warning", what, fix)])
  })

  it("use secrets of the documentation", async () => {
    const world = await stage.world()
    const settings = settingsOf({ LIVEKIT_URL: stage.api.url })
    expect(checkSettings({ ...world, settings })).toContainEqual(
      problem("warning", /A secret of the documentation is in use/, "CXB_CORE_SECRET"),
    )
  })

  it("lack LIVEKIT_URL where DIDs are answered by agents", async () => {
    const dids = storedThings.dids.map((did) => ({ ...did, target: "agent" as const }))
    const parts = { database: databaseWith({ dids }) }
    const expected = problem("error", /2 of the DIDs are answered by an agent/, "Set LIVEKIT_URL")
    expect(await found({ LIVEKIT_URL: "" }, parts)).toEqual([expected])
    expect(await found({}, parts)).toEqual([green(/./)])
  })
})

describe("the database", () => {
  const found = async (database: World["database"], parts: Partial<World> = {}) =>
    checkDatabase(await stage.world({ LIVEKIT_URL: "" }, { database, ...parts }))

  it("is up to date", async () => {
    expect(await found(databaseWith())).toEqual([green(/PostgreSQL 18, and all migrations/)])
  })

  it.each<[object, Finding["severity"], RegExp, string]>([
    [{ version: 130_014 }, "error", /is PostgreSQL 13/, "Upgrade"],
    [{ missing: ["0009_more.sql"] }, "error", /0009_more\.sql is missing/, "npm run migrate"],
    [{ unknown: ["0099_later.sql"] }, "warning", /does not know: 0099_later/, "newer version"],
  ])("has %j", async (changed, severity, what, fix) => {
    const database = { ...databaseWith(), ...changed } as World["database"]
    expect(await found(database)).toEqual([problem(severity, what, fix)])
  })

  it("is looked at as it is", async () => {
    const postgres = await makePostgresDatabase()
    try {
      const { database } = settingsOf(postgres.env)
      const empty = await Effect.runPromise(lookAtDatabase(database))
      expect(empty).toMatchObject({ kind: "open", unknown: [], stored: { carriers: [], dids: [] } })
      expect(await found(empty)).toEqual([
        problem("error", /0001_dispatch\.sql.* are missing/, "npm run migrate"),
      ])
      await postgres.query("CREATE TABLE schema_migrations (name text PRIMARY KEY)")
      await postgres.query("INSERT INTO schema_migrations VALUES ('0099_later.sql')")
      expect(await Effect.runPromise(lookAtDatabase(database))).toMatchObject({ unknown: ["0099_later.sql"] })
    } finally {
      await postgres.drop()
    }
  })

  it("is not reached", async () => {
    const { database } = settingsOf({ DATABASE_URL: "postgres://me:hunter2@127.0.0.1:1/x" })
    const [finding, ...more] = await found(await Effect.runPromise(lookAtDatabase(database)))
    expect(more).toEqual([])
    expect(finding).toEqual(problem("error", /cannot be reached/, "DATABASE_URL"))
    expect(JSON.stringify(finding)).not.toContain("hunter2")
  })

  it("was never made, and is not made now", async () => {
    const directory = await mkdtemp(join(scratchDirectory(), "never-made-"))
    try {
      const { database } = settingsOf({ DATA_DIR: directory, EMBEDDED_DATABASE: "true" })
      const view = await Effect.runPromise(lookAtDatabase(database))
      expect(view).toMatchObject({ kind: "not made" })
      expect(await found(view)).toEqual([problem("warning", /no embedded database/, "npm run migrate")])
      expect(await Effect.runPromise(lookAtDatabase(database))).toEqual(view)
    } finally {
      await rm(directory, { recursive: true })
    }
  })
})

describe("the fleet", () => {
  const cleanUps: Array<() => unknown> = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0)) await cleanUp()
  })

  /** A sample worker whose dispatch URL says to other methods that it is there. */
  const aWorker = async (instead = onlyPost) => {
    const worker = await startWorker()
    const front: Front = await startFront(worker.url, { instead })
    cleanUps.push(front.stop, worker.stop)
    return { worker, url: front.url, stop: front.stop }
  }

  const found = async (coreFleet: unknown, env: Record<string, string> = {}, drainedWorkers?: unknown) => {
    const database = databaseWith({ coreFleet, drainedWorkers })
    return Effect.runPromise(checkFleet(await stage.world(env, { database })))
  }

  it("is healthy, and gets no call from us", async () => {
    const { url, worker } = await aWorker()
    worker.behaviour.health = plainHealth
    expect(await found([{ url, name: "one" }])).toEqual([
      green(/one \(http.*is healthy, and its dispatch URL answers/),
    ])
    expect(worker.seen).toEqual([])
  })

  it("is seeded by CORE_FLEET, which is not used after that", async () => {
    const { url } = await aWorker()
    expect(await found(undefined, { CORE_FLEET: url })).toEqual([green(/is healthy/)])
    expect(await found([url], { CORE_FLEET: "http://127.0.0.1:1" })).toEqual([
      problem("warning", /CORE_FLEET names other workers/, "core_fleet"),
      green(/is healthy/),
    ])
  })

  it("is empty", async () => {
    const what = /There is no worker/
    expect(await found([])).toEqual([problem("error", what, "CORE_FLEET")])
    expect(await found([], { FALLBACK_AGENT: "spare" })).toEqual([problem("warning", what, "CORE_FLEET")])
    expect(await found([], { INBOUND_TARGET: "agent" })).toEqual([green(/agents answer/)])
  })

  it("is draining", async () => {
    const { url } = await aWorker()
    const expected = [
      problem("error", /Every worker is draining/, "undrain"),
      green(/draining by the settings/),
    ]
    expect(await found([{ url, name: "one" }], {}, ["one"])).toEqual(expected)
  })

  it("has wrong entries", async () => {
    const { url } = await aWorker()
    expect(await found([url, "ftp://worker", { url, capacity: 3 }])).toEqual([
      problem("error", /left out: "ftp:\/\/worker" is not a usable/, "core_fleet"),
      problem("error", /left out: .* is listed twice/, "core_fleet"),
      green(/is healthy/),
    ])
  })

  it.each<[string, object, Finding["severity"], RegExp]>([
    ["is ill", { status: 500, body: {} }, "error", /GET .*\/health answers 500/],
    ["is draining", { status: 200, body: { status: "draining" } }, "warning", /one is draining/],
    ["is full", { status: 200, body: { active_calls: 5, max_calls: 5 } }, "warning", /full \(5 of 5 calls\)/],
  ])("has a worker that %s", async (_, health, severity, what) => {
    const { url, worker } = await aWorker()
    worker.behaviour.health = health as typeof plainHealth
    expect(await found([{ url, name: "one" }])).toEqual([problem(severity, what, /\w/)])
  })

  it("has a worker that is away, or takes too long", async () => {
    const one = await aWorker()
    const slow = await aWorker()
    slow.worker.behaviour.health = () => {}
    await one.stop()
    expect(await found([one.url, slow.url])).toEqual([
      problem("error", /health failed \(ECONNREFUSED\)/, "curl"),
      problem("error", /health failed \(no answer within 500 ms\)/, "curl"),
    ])
  })

  it("has a worker without a dispatch URL, or one that redirects", async () => {
    const path = "/livekit/dispatch"
    const missing = await aWorker(answering(path, 404))
    const moved = await aWorker(answering(path, 308, { location: "https://elsewhere.invalid/" }))
    const fussy = await aWorker(answering(path, 401))
    const broken = await aWorker((request) => {
      if (request.url !== path) return undefined
      request.socket.destroy()
      return true
    })
    expect(await found([missing.url, moved.url, fussy.url, broken.url])).toEqual([
      problem("warning", /answers 404 to OPTIONS and GET/, "base URL"),
      problem("error", /redirects \(308\)/, "Name the URL"),
      green(/is healthy/),
      problem("error", /dispatch cannot be reached \(the connection broke/, "curl"),
    ])
  })
})

describe("timeouts", () => {
  const at = "https://switchhook.example.com/readyz"
  const webhook = new URL("https://switchhook.example.com/api/v1/livekit/webhook")
  const found = async (tookMs: number, parts: Partial<World> = { webhook }) =>
    checkTimeouts(
      await stage.world({ LIVEKIT_URL: "" }, { service: { kind: "ready", at, tookMs }, ...parts }),
    )

  it("are in the right order, as far as can be seen", async () => {
    expect(await found(30)).toEqual([green(/relay 10 s < proxy 15 s < LiveKit.*proxy_read_timeout 15s/)])
    expect(await found(30, {})).toEqual([])
  })

  it("are used up on the way", async () => {
    expect(await found(2_300)).toEqual([problem("warning", /took 2\.3 s to answer/, "proxies")])
    expect(await found(12_000)).toEqual([problem("error", /took 12\.0 s/, "proxies")])
  })
})
