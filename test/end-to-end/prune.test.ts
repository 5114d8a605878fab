// `npm run prune` as a person runs it: flags, an exit code, something to read, and a service that goes on beside it.

import { sql } from "kysely"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { reachEmbedded } from "../../src/database/embedded.ts"
import type { CommandEngine } from "../../src/database/engine.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { query } from "../../src/database/schema.ts"
import { databaseKinds, makeDatabase, type TestDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { ownRuntime, signal, start } from "../support/processes.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

const begin = (args: ReadonlyArray<string>, env: Record<string, string> = {}) => {
  const { child, exited, output } = start(ownRuntime, "commands/prune.ts", { args, env })
  return { child, ended: exited.then((code) => ({ code, output: output().trim() })) }
}

const run = (args: ReadonlyArray<string>, env?: Record<string, string>) => begin(args, env).ended

// One a batch they take seconds: long enough to be stopped on the way.
const old = 1_200
const shown = (count: number) => count.toLocaleString("en-US")

describe.each(databaseKinds)("beside a service on %s", { timeout: 60_000 }, (kind) => {
  let database: TestDatabase
  let service: Service
  let worker: Awaited<ReturnType<typeof startWorker>>
  let engine: CommandEngine

  const calls = async () => {
    const counted = sql<{ calls: number }>`SELECT count(*)::int AS calls FROM calls`.compile(query)
    return (await engine.kysely.executeQuery(counted)).rows[0]?.calls
  }

  beforeAll(async () => {
    database = await makeDatabase(kind)
    worker = await startWorker()
    service = await startService({ ...database.env, CORE_FLEET: worker.url })
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
    const { DATABASE_URL, DATA_DIR } = database.env
    engine = DATABASE_URL === undefined ? await reachEmbedded(DATA_DIR ?? "") : makePostgres(DATABASE_URL)
    // Calls that came and went 100 days ago.
    await engine.kysely.executeQuery(
      sql`
        INSERT INTO calls (id, call_key, state, direction, room_key, room_sid, created_at, caller_first_joined_ms,
          caller_joined_ms, caller_left_ms, left_at_ms)
        SELECT gen_random_uuid(), 'SCL_' || n, 'accepted', 'inbound', 'RM_' || n, 'RM_' || n,
          now() - interval '100 days', 1000, 1000, 1000, 5000
        FROM generate_series(1, ${old}) n`.compile(query),
    )
    await engine.kysely.executeQuery(sql`UPDATE sessions SET ended_at_ms = 5000`.compile(query))
  })
  afterAll(async () => {
    await engine?.close()
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })

  it("counts first, deletes then, is stopped and goes on, and calls are taken meanwhile", async () => {
    const ninetyDays = ["--older-than", "90d"]
    const dry = await run([...ninetyDays, "--dry-run"], database.env)
    expect(dry).toEqual({ code: 0, output: `Would delete: ${shown(old)} calls, ${shown(old)} rooms.` })
    expect(await calls()).toBe(old)

    const stopped = begin([...ninetyDays, "--batch", "1"], database.env)
    await eventually("it has begun", async () => ((await calls()) ?? old) < old)
    expect((await service.ring(joinEvent())).status).toBe(200)
    signal(stopped.child, "SIGINT")
    const { code, output } = await stopped.ended
    expect(output).toMatch(
      /^Stopped. Deleted until then: [\d,]+ calls?, [\d,]+ rooms?. Run it again for the rest.$/,
    )
    expect(code).toBe(130)
    const rest = ((await calls()) ?? 0) - 1
    expect(rest).toBeGreaterThan(0)

    const second = await run(ninetyDays, database.env)
    expect(second).toEqual({ code: 0, output: expect.stringContaining(`Deleted: ${shown(rest)} call`) })
    expect(await calls()).toBe(1)
    const third = await run(ninetyDays, database.env)
    expect(third).toEqual({ code: 0, output: "Deleted: 0 calls, 0 rooms." })
  })
})

describe("it refuses, and says why,", () => {
  it.each<[string, ReadonlyArray<string>, RegExp]>([
    ["an age without a unit", ["--older-than", "90"], /^--older-than: expected a duration like 90d/],
    ["less than an hour", ["--older-than", "59min"], /1h at least\. LiveKit delivers an event again/],
    ["a batch of nothing", ["--older-than", "1h", "--batch", "0"], /a number from 1 to 10000/],
  ])("%s", async (_, args, why) => {
    const { code, output } = await run(args)
    expect(output).toMatch(why)
    expect(code).toBe(1)
  })

  it("where the database is not there", async () => {
    const env = { DATABASE_URL: "postgres://me:hunter2@127.0.0.1:1/x" }
    const { code, output } = await run(["--older-than", "1h"], env)
    expect(output).toMatch(/^The database cannot be reached: .*ECONNREFUSED.*$/)
    expect(output).not.toContain("hunter2")
    expect(code).toBe(1)
  })
})
