// The commands as a person runs them: processes with flags, an exit code and something to read.

import { access, mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import {
  makeEmbeddedDatabase,
  makePostgresDatabase,
  type PostgresDatabase,
  type TestDatabase,
} from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { ownRuntime, type Runtime, root, runtimes, signal, start } from "../support/processes.ts"
import { apiKey, apiSecret, coreSecret, type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

const fixture = (name: string) => `${root}test/fixtures/${name}.jsonl`

// Somewhere without an .env, so that nobody's own settings count.
let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "switchhook-commands-"))
})
afterAll(() => rm(directory, { recursive: true, force: true }))

const begin = (name: string, args: ReadonlyArray<string>, env: Record<string, string>, runtime: Runtime) => {
  const { child, exited, output } = start(runtime, `commands/${name}.ts`, { args, env, cwd: directory })
  const ended = exited.then((code) => ({ code, output: output() }))
  return { child, ended, output }
}

const run = (
  name: string,
  args: ReadonlyArray<string> = [],
  env: Record<string, string> = {},
  runtime: Runtime = ownRuntime,
) => begin(name, args, env, runtime).ended

describe("worker", () => {
  it("takes the calls of a service and prints them, until it is stopped", async () => {
    const args = ["--port", "0", "--name", "the-sample"]
    const worker = begin("worker", args, { CXB_CORE_SECRET: coreSecret }, ownRuntime)
    const url = await eventually("it listens", () => /http:\/\/127\.0\.0\.1:\d+/.exec(worker.output())?.[0])
    const database = await makePostgresDatabase()
    const service = await startService({ ...database.env, CORE_FLEET: url })
    try {
      await eventually("ready", async () => (await service.get("/readyz")).status === 200)
      expect((await service.ring(joinEvent())).body).toBe('{"ok":true,"worker":"the-sample"}')
      await eventually("printed", () =>
        worker.output().includes("Call from +15551234567 to +15557654321 in call-"),
      )
    } finally {
      await service.stop()
      await database.drop()
      signal(worker.child, "SIGINT")
    }
    expect((await worker.ended).code).toBe(130)
  })

  it("says so in one line where its port is taken, or is none", async () => {
    const taken = await startWorker()
    const onTaken = await run("worker", ["--port", new URL(taken.url).port])
    expect(onTaken).toMatchObject({ code: 1, output: expect.stringContaining("The worker cannot listen: ") })
    await taken.stop()
    expect(await run("worker", ["--port", "70000"])).toMatchObject({
      code: 1,
      output: expect.stringContaining("65535"),
    })
  })
})

describe("migrate", () => {
  let database: PostgresDatabase
  beforeEach(async () => {
    database = await makePostgresDatabase()
    return () => database.drop()
  })

  it("applies what is missing, and nothing twice", async () => {
    const first = await run("migrate", [], database.env)
    expect(first).toMatchObject({ code: 0, output: expect.stringContaining("Applied 0001_dispatch.sql") })
    const second = await run("migrate", [], database.env)
    expect(second).toMatchObject({ code: 0, output: expect.stringContaining("up to date: nothing to do") })
    expect(second.output).not.toContain("postgres:test")
    expect(await database.query("SELECT name FROM schema_migrations")).toContainEqual({
      name: "0001_dispatch.sql",
    })
  })

  it("says in one line which file the database refuses, and leaves it as it was", async () => {
    await database.query("CREATE TABLE calls (mine text)")
    const { code, output } = await run("migrate", [], database.env)
    expect(code).toBe(1)
    expect(output.trim()).toBe('Migration 0001_dispatch.sql failed: relation "calls" already exists')
    expect(await database.query("SELECT name FROM schema_migrations")).toEqual([])
  })

  it.each<[string, Record<string, string>, RegExp]>([
    [
      "nobody listens",
      { DATABASE_URL: "postgres://me:hunter2@127.0.0.1:1/x" },
      /^The database cannot be reached: .*ECONNREFUSED.*$/,
    ],
    [
      "the setting is no such URL",
      { DATABASE_URL: "mysql://me:hunter2@127.0.0.1/x" },
      /^DATABASE_URL: expected a URL like postgres:.*$/,
    ],
  ])("says so in one line where %s", async (_, env, line) => {
    const { code, output } = await run("migrate", [], env)
    expect(code).toBe(1)
    expect(output.trim()).toMatch(line)
    expect(output).not.toContain("hunter2")
  })

  it("takes no flag it does not know", async () => {
    const { code, output } = await run("migrate", ["--force"], database.env)
    expect(code).toBe(1)
    expect(output).toContain("Unrecognized flag: --force")
  })
})

describe("migrate, on the embedded database", () => {
  let database: TestDatabase
  beforeEach(async () => {
    database = await makeEmbeddedDatabase()
    return () => database.drop()
  })

  it("applies what is missing, and ends by itself both times", async () => {
    expect(await run("migrate", [], database.env)).toMatchObject({
      code: 0,
      output: expect.stringContaining("Applied 0001_dispatch.sql"),
    })
    expect(await run("migrate", [], database.env)).toMatchObject({
      code: 0,
      output: expect.stringContaining("up to date: nothing to do"),
    })
  })

  it("goes through the service that has it open", async () => {
    const service = await startService(database.env)
    try {
      expect(await run("migrate", [], database.env)).toMatchObject({
        code: 0,
        output: expect.stringContaining("up to date: nothing to do"),
      })
    } finally {
      await service.stop()
    }
  })
})

describe("ring", () => {
  let database: PostgresDatabase
  let worker: SampleWorker
  let service: Service
  const keys = { LIVEKIT_API_KEY: apiKey, LIVEKIT_API_SECRET: apiSecret }

  beforeAll(async () => {
    database = await makePostgresDatabase()
    worker = await startWorker("the-worker")
    service = await startService({
      ...database.env,
      CORE_FLEET: worker.url,
      LIVEKIT_OUTBOUND_TRUNK_ID: "ST_out",
    })
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  })
  beforeEach(() => {
    worker.behaviour.dispatch = respond(200, { ok: true, worker: worker.name })
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })

  const ring = (args: ReadonlyArray<string> = [], env: Record<string, string> = keys, runtime?: Runtime) =>
    run("ring", ["--url", service.url, ...args], env, runtime)
  const seen = (callId: string) =>
    worker.seen.map(({ body }) => body).filter((body) => body["call_id"] === callId)

  it.each(runtimes)("rings one call, which a worker takes (%s)", async (runtime) => {
    const id = `SCL_one_${runtime}`
    const args = ["--from", "+15550001111", "--to", "+15550002222", "--call-id", id]
    const { code, output } = await ring(args, keys, runtime)
    expect(output).toContain("A worker took the call.")
    expect(output).toContain('{"ok":true,"worker":"the-worker"}')
    expect(code).toBe(0)
    const rung = { caller_number: "+15550001111", dialed_number: "+15550002222" }
    expect(seen(id)).toEqual([
      { ...rung, call_id: id, room_name: expect.stringMatching(/^call-_\+15550001111_[A-Za-z0-9]{12}$/) },
    ])
  })

  it("makes up a call of its own each time", async () => {
    const before = worker.seen.length
    await Promise.all([ring(), ring()])
    const ids = worker.seen.slice(before).map(({ body }) => body["call_id"])
    expect(ids).toEqual([expect.stringMatching(/^SCL_\w{12}$/), expect.stringMatching(/^SCL_\w{12}$/)])
    expect(ids[0]).not.toBe(ids[1])
  })

  it("finds the service by PORT", async () => {
    const { code, output } = await run("ring", [], { ...keys, PORT: new URL(service.url).port })
    expect(code).toBe(0)
    expect(output).toContain("A worker took the call.")
  })

  it("says that the same call is answered from the ledger, and what a worker's refusal was", async () => {
    await ring(["--call-id", "SCL_twice"])
    const again = await ring(["--call-id", "SCL_twice"])
    expect(again).toMatchObject({
      code: 0,
      output: expect.stringContaining("from the ledger: nothing was sent again"),
    })
    expect(seen("SCL_twice")).toHaveLength(1)

    worker.behaviour.dispatch = respond(429, { error: "full" })
    const refused = await ring(["--call-id", "SCL_refused"])
    expect(refused).toMatchObject({
      code: 1,
      output: expect.stringContaining("The worker turned the call down"),
    })
    const after = await ring(["--call-id", "SCL_refused"])
    expect(after).toMatchObject({
      code: 0,
      output: expect.stringContaining("a worker turned this call down before (429)"),
    })
  })

  it("says why no worker is asked", async () => {
    const why = async (args: ReadonlyArray<string>, env = keys) => {
      const { code, output } = await ring(args, env)
      expect(code).toBe(0)
      return output
    }
    expect(await why(["--event", "participant_left"])).toContain("no worker is asked on this event")
    expect(await why(["--room", "lobby"])).toContain(
      "no worker is asked for a room whose name does not begin with call-",
    )
    // Only the service has this trunk listed as outbound, and ring does not know that.
    expect(await why(["--trunk", "ST_out"])).toContain("Is the trunk one of its outbound trunks?")
  })

  it("explains a refused signature, and shows no secret", async () => {
    const { code, output } = await ring([], { ...keys, LIVEKIT_API_SECRET: "some-other-secret" })
    expect(code).toBe(1)
    expect(output).toMatch(/401 after \d+ ms {2}The service does not accept the signature/)
    expect(output).toContain("Set LIVEKIT_API_KEY and LIVEKIT_API_SECRET")
    expect(output).not.toContain("some-other-secret")
    expect(output).not.toContain("eyJ")
  })

  it("explains a worker that refuses the service, and an address that is none of ours", async () => {
    worker.behaviour.dispatch = respond(401, { error: "wrong secret" })
    expect(await ring()).toMatchObject({ code: 1, output: expect.stringContaining("CXB_CORE_SECRET") })
    const elsewhere = await run("ring", ["--url", worker.url], keys)
    expect(elsewhere).toMatchObject({
      code: 1,
      output: expect.stringContaining("is --url the address of Switchhook"),
    })
  })

  it("tells of a whole call that is answered and ends", async () => {
    const { code, output } = await ring(["--answered", "--call-id", "SCL_whole"])
    expect(output).toMatch(/A worker took the call.*joins the room and answers.*hangs up.*the room closes/s)
    expect(code).toBe(0)
    expect(
      await database.query("SELECT status, answerers, hung_up_by FROM calls WHERE call_key = 'SCL_whole'"),
    ).toEqual([{ status: "completed", answerers: 1, hung_up_by: "caller" }])
  })

  it("tells of no answer to a call that nobody took, or that is not a whole one", async () => {
    worker.behaviour.dispatch = respond(429, { error: "full" })
    const refused = await ring(["--answered"])
    expect(refused.code).toBe(1)
    expect(refused.output).not.toContain("answers")
    const flagged = await ring(["--answered", "--dry-run"])
    expect(flagged).toMatchObject({ code: 1, output: expect.stringContaining("leave away --event") })
  })

  it("shows what it would send, and sends nothing", async () => {
    const before = worker.seen.length
    const { code, output } = await ring(["--dry-run", "--call-id", "SCL_dry"])
    expect(code).toBe(0)
    expect(output).toContain(`POST ${service.webhook}`)
    expect(output).toContain('"sip.callID": "SCL_dry"')
    expect(output).toMatch(/Authorization: eyJ\w{9}… /)
    expect(output).not.toContain(apiSecret)
    expect(output).toContain("would be handed over")
    expect(output).toContain("dialed +15557654321 (sip.trunkPhoneNumber), trunk ST_madeup")
    expect(output).toMatch(/worker \S+ picked, load \d+ %/)
    expect(worker.seen).toHaveLength(before)
  })

  it("shows of an event that is no call which filter passes it by", async () => {
    const { code, output } = await ring(["--dry-run", "--room", "meeting"])
    expect(code).toBe(0)
    expect(output).toContain("acknowledged: the room filter passes it by")
  })

  it("plays a recording, and plays it again", async () => {
    const first = await ring(["--file", fixture("answered-by-agent"), "--pause", "5"])
    expect(first.output).toContain(
      "10 delivered: 1 taken by a worker, 0 answered from the ledger, 9 acknowledged, 0 failed.",
    )
    expect(first.code).toBe(0)
    const second = await ring(["--file", fixture("answered-by-agent"), "--pause", "5"])
    expect(second.output).toContain(
      "10 delivered: 0 taken by a worker, 1 answered from the ledger, 9 acknowledged, 0 failed.",
    )
    expect(second.code).toBe(0)
    expect(seen("SCL_kt9VMibtvTwe")).toHaveLength(1)
  })

  it("names the line of a recording that is none, and the flags that do not go with one", async () => {
    const broken = join(directory, "broken.jsonl")
    await writeFile(
      broken,
      `${JSON.stringify({ at_ms: 1, answered: 200, headers: {}, body: "{}" })}\nnonsense\n`,
    )
    expect(await ring(["--file", broken])).toMatchObject({
      code: 1,
      output: expect.stringContaining("broken.jsonl, line 2"),
    })
    const both = await ring(["--file", fixture("rang-out"), "--from", "+15550001111"])
    expect(both).toMatchObject({ code: 1, output: expect.stringContaining("leave away the flags") })
  })

  it.each([
    [["--frm", "+15550001111"], "Unrecognized flag: --frm"],
    [["--pause", "soon"], "Invalid value for flag --pause"],
    [["--file", "nowhere.jsonl"], "Path does not exist"],
    [["--url", "nowhere"], "--url: expected an address"],
  ])("says what is wrong with %j", async (args, complaint) => {
    const { code, output } = await run("ring", args, keys)
    expect(code).toBe(1)
    expect(output).toContain(complaint)
    expect(output).not.toContain("    at ")
  })

  it.each(runtimes)("says that nobody answers, and what to do (%s)", async (runtime) => {
    const { code, output } = await run("ring", ["--url", "http://127.0.0.1:9"], keys, runtime)
    expect(code).toBe(1)
    expect(output).toContain("Nobody answers at http://127.0.0.1:9/")
    expect(output).toContain("npm start")
  })
})

describe("ring, where nobody can take the call", () => {
  it("says what the service lacks", async () => {
    const database = await makePostgresDatabase()
    const service = await startService(database.env)
    const keys = { LIVEKIT_API_KEY: apiKey, LIVEKIT_API_SECRET: apiSecret }
    try {
      await eventually("the setting is read", async () =>
        (await service.get("/readyz")).text.includes("No fleet"),
      )
      const { code, output } = await run("ring", ["--url", service.url], keys)
      expect(code).toBe(1)
      expect(output).toMatch(/503 after \d+ ms {2}The service knows no worker/)
      expect(output).toContain("Set CORE_FLEET")
      expect(output).toContain("LiveKit sends the event again")
    } finally {
      await service.stop()
      await database.drop()
    }
  })
})

describe.each(runtimes)("demo on %s", (runtime) => {
  const directoryOf = (output: string) => /with a new database in (\S+)/.exec(output)?.[1]
  const urlOf = (output: string) => /Switchhook listens on (\S+)/.exec(output)?.[1]

  const expectNothingLeft = async (output: string) => {
    await expect(access(directoryOf(output)!)).rejects.toThrow("ENOENT")
    await expect(fetch(`${urlOf(output)}/healthz`)).rejects.toThrow()
  }

  it("tells a whole story, checks it, and leaves nothing behind", { timeout: 60_000 }, async () => {
    const { code, output } = await run("demo", [], {}, runtime)
    expect(output).not.toContain("NOT SO")
    for (const line of [
      /\d+ ms {2}worker-[12] took it; LiveKit is answered 200/,
      "checked: one worker was asked, once",
      "checked: both were replayed from the ledger, with the first answer",
      /worker-[12] is killed/,
      /checked: the caller noticed nothing: worker-[12] has the call, alone/,
      /checked: worker-[12] was not even tried/,
      "checked: refused, and no worker has heard of it",
      /checked: each of the \d calls was given to one worker, once/,
      "checked: Switchhook stopped cleanly",
    ]) {
      expect(output).toMatch(line)
    }
    expect(code).toBe(0)
    await expectNothingLeft(output)
  })

  const signals = runtime === ownRuntime ? (["SIGINT", "SIGHUP"] as const) : (["SIGINT"] as const)

  it.each(signals)("leaves nothing behind when %s interrupts it", { timeout: 60_000 }, async (signal) => {
    const { child, ended, output } = begin("demo", [], {}, runtime)
    // At once: its calls take no longer than a tenth of a second.
    let sent = false
    child.stdout.on("data", () => {
      if (sent || urlOf(output()) === undefined) return
      sent = true
      process.kill(child.pid!, signal)
    })
    expect((await ended).code).toBe(130)
    await expectNothingLeft(output())
  })
})
