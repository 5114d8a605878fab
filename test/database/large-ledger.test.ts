// What PostgreSQL reads for the statements that run all the time, once there are many calls.

import { Effect, ManagedRuntime } from "effect"
import { type CompiledQuery, sql } from "kysely"
import { afterAll, beforeAll, expect, it } from "vitest"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { lapseStatement, openRoomsStatement, takeStatement } from "../../src/watch/statements.ts"
import { databaseLayer } from "../support/engines.ts"

const runtime = ManagedRuntime.make(databaseLayer("postgres"))
const run = <A>(statement: CompiledQuery<A>) =>
  runtime.runPromise(Effect.flatMap(Database, (database) => database.run(statement)))

// All have ended; the triggers would only say so.
const fill = `DO $$ BEGIN
  SET LOCAL session_replication_role = replica;
  INSERT INTO calls (id, call_key, state, room_key, explanation)
    SELECT gen_random_uuid(), 'call ' || n, 'accepted', 'room ' || n, json_build_object('text', repeat('x', 500))
    FROM generate_series(1, 20000) n;
  INSERT INTO sessions (room_key, room_sid, room_name, started_at_ms, ended_at_ms)
    SELECT room_key, room_key, room_key, 1, 2 FROM calls;
  INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url, outcome)
    SELECT id, 1, id, 'a', 'http://a', 'accepted' FROM calls;
  ANALYZE calls; ANALYZE sessions; ANALYZE dispatch_attempts;
END $$`

beforeAll(async () => {
  await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
  await run(sql.raw(fill).compile(query))
})
afterAll(() => runtime.dispose())

it.each<[string, CompiledQuery<unknown>]>([
  ["leases that have lapsed", lapseStatement],
  ["calls that are due", takeStatement(32, true)],
  ["calls that are due while nobody takes them", takeStatement(32, false)],
  ["rooms that are open", openRoomsStatement(10)],
])("%s are found without reading all of them", async (_, statement) => {
  const explain = { ...statement, sql: `EXPLAIN ${statement.sql}` } as CompiledQuery<{ "QUERY PLAN": string }>
  const plan = (await run(explain)).map((line) => line["QUERY PLAN"]).join("\n")
  expect(plan).toContain("Update on")
  expect(plan).not.toMatch(/Seq Scan/)
})
