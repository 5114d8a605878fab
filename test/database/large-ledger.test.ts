// What PostgreSQL reads for the statements that run all the time, once there are many calls.

import { Effect, ManagedRuntime } from "effect"
import { type CompiledQuery, sql } from "kysely"
import { afterAll, beforeAll, expect, it } from "vitest"
import { callsStatement } from "../../src/calls/call-list.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { sessionsStatement } from "../../src/sessions/session-list.ts"
import { lapseStatement, openRoomsStatement, takeStatement } from "../../src/watch/statements.ts"
import { databaseLayer } from "../support/engines.ts"

const runtime = ManagedRuntime.make(databaseLayer("postgres"))
const run = <A>(statement: CompiledQuery<A>) =>
  runtime.runPromise(Effect.flatMap(Database, (database) => database.run(statement)))

// All have ended, in 90 days; the triggers would only say so.
const fill = `DO $$ BEGIN
  SET LOCAL session_replication_role = replica;
  INSERT INTO calls (id, call_key, state, room_key, explanation, caller, caller_e164, dialed_e164, started_at_ms)
    SELECT gen_random_uuid(), 'call ' || n, 'accepted', 'room ' || n, json_build_object('text', repeat('x', 500)),
      '+1555' || n, '+1555' || n, '+1800' || n % 500, 1700000000000 + n * 388800::bigint
    FROM generate_series(1, 20000) n;
  INSERT INTO sessions (room_key, room_sid, room_name, started_at_ms, ended_at_ms, created_at)
    SELECT room_key, room_key, room_key, 1, 2, to_timestamp(started_at_ms / 1000) FROM calls;
  INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url, outcome)
    SELECT id, 1, id, 'a', 'http://a', 'accepted' FROM calls;
  ANALYZE calls; ANALYZE sessions; ANALYZE dispatch_attempts;
END $$`

beforeAll(async () => {
  await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
  await run(sql.raw(fill).compile(query))
})
afterAll(() => runtime.dispose())

const planOf = async (statement: CompiledQuery<unknown>) => {
  const explain = { ...statement, sql: `EXPLAIN ${statement.sql}` } as CompiledQuery<{ "QUERY PLAN": string }>
  return (await run(explain)).map((line) => line["QUERY PLAN"]).join("\n")
}

it.each<[string, CompiledQuery<unknown>]>([
  ["leases that have lapsed", lapseStatement],
  ["calls that are due", takeStatement(32, true)],
  ["calls that are due while nobody takes them", takeStatement(32, false)],
  ["rooms that are open", openRoomsStatement(10)],
])("%s are found without reading all of them", async (_, statement) => {
  const plan = await planOf(statement)
  expect(plan).toContain("Update on")
  expect(plan).not.toMatch(/Seq Scan/)
})

const first = { after: undefined, limit: 50 }
const next = { after: ["1705000000000", "00000000-0000-4000-8000-000000000000"] as const, limit: 50 }
const lastWeek = { fromMs: 1_700_000_000_000, toMs: 1_700_600_000_000 }
const ofNumber = { number: "+155512345" }
const ofDid = { did: { number: "+180042" } }

// A sort may stand at the end, of a page for each index.
it.each<[string, CompiledQuery<unknown>, index: string]>([
  ["those of a caller", callsStatement(first, ofNumber), "calls_of_caller"],
  ["those of a dialed number", callsStatement(first, ofNumber), "calls_of_dialed"],
  ["those of a DID", callsStatement(first, ofDid), "calls_of_dialed"],
  ["the next page of a DID's", callsStatement(next, ofDid), "calls_of_dialed"],
  ["a DID's of last week", callsStatement(first, { ...ofDid, ...lastWeek }), "calls_of_dialed"],
  ["missed ones of a DID", callsStatement(first, { ...ofDid, status: "missed" }), "calls_of_dialed"],
  ["rooms of a name", sessionsStatement(first, { room_name: "room 12345" }), "sessions_of_room"],
])("the newest, %s, are found in the order of an index", async (_, statement, index) => {
  const plan = await planOf(statement)
  expect(plan).toContain(`Scan Backward using ${index} `)
  expect(plan).not.toMatch(/Seq Scan/)
})

it("the newest calls of a caller are found day by day, the newest first", async () => {
  const rows = await run(callsStatement({ after: undefined, limit: 3 }, { did: { number: "+180042" } }))
  const calls = [19_542, 19_042, 18_542].map((n) => `call ${n}`)
  expect(rows.map(({ call_key }) => call_key)).toEqual(calls)
  const last = rows[2]
  if (last === undefined || last.id === null) throw new Error("there is no third call")
  const after = [String(last.started_at_ms), last.id] as const
  const more = await run(callsStatement({ after, limit: 2 }, { did: { number: "+180042" } }))
  expect(more.map(({ call_key }) => call_key)).toEqual(["call 18042", "call 17542"])
  const { fromMs, toMs } = lastWeek
  const within = await run(callsStatement(first, { did: { number: "+180042" }, fromMs, toMs }))
  expect(within.map(({ call_key }) => call_key)).toEqual(["call 1542", "call 1042", "call 542", "call 42"])
})
