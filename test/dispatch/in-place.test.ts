// What a hand-over's statements write in PostgreSQL, and what they read to find it.

import { Effect, Layer, ManagedRuntime } from "effect"
import pg from "pg"
import { afterAll, beforeAll, expect, it } from "vitest"
import { Database } from "../../src/database/database.ts"
import { type ClaimInput, newCalls } from "../../src/dispatch/claim-statement.ts"
import { Accepted } from "../../src/dispatch/outcome.ts"
import { renewStatement, settlings } from "../../src/dispatch/settle-statements.ts"
import { makeCall } from "../support/calls.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { patientPostgres } from "../support/engines.ts"

let made: PostgresDatabase
let client: pg.Client

beforeAll(async () => {
  made = await makePostgresDatabase()
  const layer = Layer.effect(Database, Database.make(patientPostgres(made.url)))
  const runtime = ManagedRuntime.make(layer)
  await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
  await runtime.dispose()
  client = new pg.Client({ connectionString: made.url })
  await client.connect()
})
afterAll(async () => {
  await client.end()
  await made.drop()
})

const statements = [newCalls, ...Object.values(settlings)] as const

it("every row is looked up by an index, though the tables were empty when that was decided", async () => {
  for (const { statement } of statements) {
    const { rows } = await client.query(`EXPLAIN (GENERIC_PLAN) ${statement([]).sql}`)
    const plan = rows.map((row) => row["QUERY PLAN"]).join("\n")
    expect(plan).toContain("Function Scan on json_to_recordset")
    expect(plan).not.toContain("Seq Scan")
  }
})

const inputOf = (n: number): ClaimInput => ({
  call: makeCall(`SCL_in_place_${n}`, Date.now()),
  rowId: crypto.randomUUID(),
  claimId: crypto.randomUUID(),
  taker: { kind: "fleet", name: "a", url: "http://a" },
  idempotentUrls: [],
  explanation: { took_ms: { select: 1 }, considered: ["a".repeat(600)] },
  answerWithinMs: 20_000,
})

const updates = async () => {
  await client.query("SELECT pg_stat_force_next_flush()")
  const { rows } = await client.query(
    "SELECT n_tup_upd::integer AS all, n_tup_hot_upd::integer AS hot FROM pg_stat_user_tables WHERE relname = 'calls'",
  )
  return rows[0]
}

it("a hand-over that goes on and ends writes into no index of its call again, while there is room beside it", async () => {
  const run = ({ parameters, sql }: { parameters: ReadonlyArray<unknown>; sql: string }) =>
    client.query(sql, [...parameters])
  expect(await updates()).toEqual({ all: 0, hot: 0 })
  const answer = { status: 200, contentType: "text/plain", body: new Uint8Array(100) }
  for (let n = 0; n < 20; n++) {
    const input = inputOf(n)
    const { claimId, rowId } = input
    expect((await run(newCalls.statement([input]))).rows).toHaveLength(1)
    expect((await run(renewStatement(rowId, claimId))).rows).toHaveLength(1)
    const held = { callRowId: rowId, claimId, attempt: 1 }
    const settling = { held, outcome: new Accepted({ answer }), tookMs: { relay: 2 } }
    expect((await run(settlings.accepted.statement([settling]))).rows).toEqual([
      { id: rowId, state: "accepted" },
    ])
  }
  const { all, hot } = await updates()
  expect(all).toBe(40)
  // Where a row's page has no room left, all the same: that depends on what else runs.
  expect(hot).toBeGreaterThan(20)
})
