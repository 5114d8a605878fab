// Starting, stopping, and a database that is away.

import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, describe, expect, it } from "vitest"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { makeEmbeddedDatabase, makePostgresDatabase, type TestDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { startForwarder } from "../support/forwarder.ts"
import { runtimes, start } from "../support/processes.ts"
import { launch, type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { slowly, startWorker } from "../support/workers.ts"

const cleanUps: Array<() => unknown> = []
const later = <A>(value: A, cleanUp: (value: A) => unknown): A => {
  cleanUps.push(() => cleanUp(value))
  return value
}
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
})

const aWorker = async () => later(await startWorker(), (worker) => worker.stop())
const aService = async (...args: Parameters<typeof startService>) =>
  later(await startService(...args), (service) => service.stop("SIGKILL"))
const aPostgres = async () => later(await makePostgresDatabase(), (database) => database.drop())
const anEmbedded = async () => later(await makeEmbeddedDatabase(), (database) => database.drop())
const ready = (service: Service) =>
  eventually("ready", async () => (await service.get("/readyz")).status === 200)
const reasons = async (service: Service): Promise<ReadonlyArray<string>> =>
  JSON.parse((await service.get("/readyz")).text).reasons
const up = async (
  database: TestDatabase,
  worker: SampleWorker,
  ...runtime: [] | [Parameters<typeof startService>[1]]
) => {
  const service = await aService({ ...database.env, CORE_FLEET: worker.url }, ...runtime)
  await ready(service)
  return service
}

describe.each(runtimes)("on %s", (runtime) => {
  it.each<[string, Record<string, string>, ReadonlyArray<RegExp>]>([
    [
      "a port of 70000",
      { PORT: "70000", EMBEDDED_DATABASE: "true" },
      [/^PORT: expected a port .*got "70000"$/],
    ],
    [
      "a database URL without a scheme",
      { DATABASE_URL: "localhost/x:hush-hush" },
      [/^DATABASE_URL: expected a URL/],
    ],
    [
      "a missing secret in production",
      { LIVEKIT_API_SECRET: "", EMBEDDED_DATABASE: "true" },
      [/^LIVEKIT_API_SECRET: must be set in production/],
    ],
    [
      "a development secret in production",
      { CXB_CORE_SECRET: "dev-core-secret", EMBEDDED_DATABASE: "true" },
      [/^CXB_CORE_SECRET: must be set/],
    ],
    ["no database in production", {}, [/^DATABASE_URL: must be set in production/]],
    [
      "three mistakes at once",
      { PORT: "x", LOG_LEVEL: "loud", LIVEKIT_KEYS: "nocolon", EMBEDDED_DATABASE: "true" },
      [/^PORT: /, /^LOG_LEVEL: /, /^LIVEKIT_KEYS: expected key:secret pairs/],
    ],
  ])("%s stops the start with one clear line each and exit 1", async (_, env, expected) => {
    const { exited, output } = launch(runtime, env)
    expect(await exited).toBe(1)
    const lines = output().trim().split("\n")
    expect(lines).toEqual(expected.map((pattern) => expect.stringMatching(pattern)))
    expect(output()).not.toContain("hush-hush")
    expect(output()).not.toContain("nocolon")
  })

  it("settings come from the environment, else from env.local, else from .env", async () => {
    const cwd = later(await mkdtemp(join(tmpdir(), "switchhook-env-")), (made) =>
      rm(made, { recursive: true }),
    )
    const complaint = async (env: Record<string, string> = {}) => {
      const { exited, output } = start(runtime, "main.ts", { cwd, env })
      expect(await exited).toBe(1)
      return output()
    }
    await writeFile(join(cwd, ".env"), "PORT=70001\nLOG_LEVEL=loud\n")
    expect(await complaint()).toMatch(/PORT: .*"70001"\nLOG_LEVEL: .*"loud"/)
    await writeFile(join(cwd, "env.local"), "PORT=70002\n")
    expect(await complaint()).toMatch(/PORT: .*"70002"\nLOG_LEVEL: .*"loud"/)
    expect(await complaint({ PORT: "70003" })).toMatch(/PORT: .*"70003"\nLOG_LEVEL: .*"loud"/)
  })

  it("SIGTERM in mid-relay: not ready at once, the call finishes, exit 0", async () => {
    const database = await aPostgres()
    const worker = await aWorker()
    const service = await up(database, worker, runtime)
    let finish = () => {}
    worker.behaviour.dispatch = (_, response) => {
      finish = () => response.writeHead(200, { "content-type": "application/json" }).end('{"finished":true}')
    }
    const ringing = service.ring(joinEvent({ callId: "SCL_term" }))
    await eventually("the worker has it", () => worker.seen.length === 1)
    const exited = service.stop("SIGTERM")
    await eventually("not ready", async () => (await reasons(service)).includes("shutting down"))
    finish()
    expect((await ringing).body).toBe('{"finished":true}')
    expect(await exited).toBe(0)
    expect(await database.query("SELECT state, outcome FROM calls")).toEqual([
      { state: "accepted", outcome: "accepted" },
    ])
  })

  it("SIGTERM and SIGINT with nothing in flight: exit 0", async () => {
    const database = await anEmbedded()
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const service = await aService({ ...database.env }, runtime)
      expect(await service.stop(signal)).toBe(0)
    }
  })

  it("kill -9 leaves a database that the next start opens, with the ledger in it", async () => {
    const database = await anEmbedded()
    const worker = await aWorker()
    const first = await up(database, worker, runtime)
    const join = joinEvent({ callId: "SCL_kept" })
    expect((await first.ring(join)).replayed).toBe(false)
    await first.stop("SIGKILL")
    const second = await up(database, worker, runtime)
    expect((await second.ring(join)).replayed).toBe(true)
    expect(worker.seen).toHaveLength(1)
  })

  it("a CORE_FLEET that the setting in the database overrules is said to be unused", async () => {
    const database = await anEmbedded()
    const worker = await aWorker()
    const first = await up(database, worker, runtime)
    expect(first.output()).not.toContain("CORE_FLEET")
    await first.stop()
    const second = await aService({ ...database.env, CORE_FLEET: "http://127.0.0.1:1" }, runtime)
    await ready(second)
    const said = second.log.find((line) => line.message?.startsWith("CORE_FLEET is not used"))
    expect(said).toMatchObject({ level: "warn", core_fleet: [worker.url] })
  })

  it("a second process on the same DATA_DIR stops with a line that says why", async () => {
    const database = await anEmbedded()
    await aService(database.env, runtime)
    const { exited, output } = launch(runtime, database.env)
    expect(await exited).toBe(1)
    expect(output()).toMatch(/is in use by another process: .*DATA_DIR/)
  })

  it("a second process on the same port stops with a line that says why", async () => {
    const [database, other] = [await anEmbedded(), await anEmbedded()]
    const port = new URL((await aService(database.env, runtime)).url).port
    const { exited, output } = launch(runtime, { ...other.env, PORT: port })
    expect(await exited).toBe(1)
    expect(output()).toMatch(
      new RegExp(`The service cannot listen: .*${port}.* \\(HOST and PORT say where\\)`),
    )
  })
})

describe("a database that is away", () => {
  const behindForwarder = async (open: boolean) => {
    const database = await aPostgres()
    const real = new URL(database.url)
    const forwarder = later(
      await startForwarder({ host: real.hostname, port: Number(real.port) }, open),
      (made) => made.cut().catch(() => {}),
    )
    const url = new URL(database.url)
    url.port = String(forwarder.port)
    return { database, forwarder, url: url.href }
  }

  it("from the start: 503 and the reason, until it appears", async () => {
    const { forwarder, url } = await behindForwarder(false)
    const worker = await aWorker()
    const service = await aService({ DATABASE_URL: url, CORE_FLEET: worker.url })
    expect((await service.get("/healthz")).status).toBe(200)
    const found = await reasons(service)
    expect(found.join("\n")).toMatch(/database cannot be reached: connect ECONNREFUSED/)
    expect(service.output()).not.toContain(":test@")
    const join = joinEvent()
    expect((await service.ring(join)).status).toBe(503)
    expect((await service.ring({ event: "track_published" })).body).toBe('{"ok":true}')
    await forwarder.restore()
    await ready(service)
    expect((await service.ring(join)).status).toBe(200)
  })

  it("later: calls go through and other events get 200, though it says that it is not ready", async () => {
    const { forwarder, url } = await behindForwarder(true)
    const worker = await aWorker()
    const service = await aService({ DATABASE_URL: url, CORE_FLEET: worker.url })
    await ready(service)
    await forwarder.cut()
    const join = joinEvent()
    expect((await service.ring(join)).status).toBe(200)
    expect((await service.ring({ event: "track_published" })).status).toBe(200)
    await eventually("not ready", async () => (await service.get("/readyz")).status === 503)
    await forwarder.restore()
    await ready(service)
    expect(await service.ring(join)).toMatchObject({ status: 200, replayed: true })
    expect(worker.seen).toHaveLength(1)
  })

  it("while a relay runs: the outcome is stored once it is back, and replayed", async () => {
    const { database, forwarder, url } = await behindForwarder(true)
    const worker = await aWorker()
    const service = await aService({ DATABASE_URL: url, CORE_FLEET: worker.url })
    await ready(service)
    worker.behaviour.dispatch = slowly(500, 200, { taken: true })
    const join = joinEvent({ callId: "SCL_storedlater" })
    const ringing = service.ring(join)
    await eventually("the worker has it", () => worker.seen.length === 1)
    await forwarder.cut()
    expect((await ringing).body).toBe('{"taken":true}')
    // The outcome is known here although nobody could store it.
    const again = await service.ring(join)
    expect([again.body, again.replayed]).toEqual(['{"taken":true}', true])
    await forwarder.restore()
    await eventually("stored", async () => {
      const rows = await database.query<{ state: string }>("SELECT state FROM calls")
      return rows[0]?.state === "accepted"
    })
    expect(worker.seen).toHaveLength(1)
  })

  it("whose LISTEN connection broke is polled: a change is in force within 5 s", async () => {
    const database = await aPostgres()
    const worker = await aWorker()
    const service = await up(database, worker)
    await database.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'switchhook-listen' AND datname = current_database()",
    )
    await database.query("UPDATE system_settings SET value = '[]' WHERE key = 'core_fleet'")
    await eventually(
      "no fleet",
      async () => (await reasons(service)).some((why) => why.startsWith("No fleet")),
      5_000,
    )
    // And without any NOTIFY at all.
    await database.query("ALTER TABLE system_settings DISABLE TRIGGER USER")
    await database.query("UPDATE system_settings SET value = to_jsonb($1::text) WHERE key = 'core_fleet'", [
      worker.url,
    ])
    await database.query("UPDATE cache_versions SET version = version + 1 WHERE topic = 'system_settings'")
    await eventually("the fleet is back", async () => (await service.get("/readyz")).status === 200, 15_000)
  })
})
