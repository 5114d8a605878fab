// What PostgreSQL does for the statements of a call and of the watch, as it would be done now; nothing stays.

import { randomUUID } from "node:crypto"
import { Effect } from "effect"
import type { CompiledQuery } from "kysely"
import pg from "pg"
import type { Call } from "../../src/calls/call.ts"
import { callKey } from "../../src/calls/call.ts"
import { pruneCallsStatement, pruneRoomsStatement } from "../../src/calls/prune-statements.ts"
import { claimStatement, newCalls } from "../../src/dispatch/claim-statement.ts"
import { extractAttributes } from "../../src/dispatch/extract-attributes.ts"
import { Accepted } from "../../src/dispatch/outcome.ts"
import { settleStatement } from "../../src/dispatch/settle-statements.ts"
import { decide } from "../../src/routing/decision.ts"
import { lapseStatement, openRoomsStatement, takeStatement } from "../../src/watch/statements.ts"
import { decodeEvent } from "../../src/webhook/event.ts"
import { prepare } from "./events.ts"

interface Plan {
  readonly name: string
  readonly plan: string
}

const someCall = async (): Promise<Call> => {
  const { bytes } = prepare("call", "plan")
  const event = await Effect.runPromise(decodeEvent(bytes.subarray(bytes.indexOf("\r\n\r\n") + 4)))
  const { participant } = event
  if (participant === undefined) throw new Error("the event has no participant")
  const leg = { event, participant }
  const attributes = extractAttributes(leg)
  const { callerNumber: from, dialedNumber: to, trunkId } = attributes
  const rules = { inboundTarget: "fleet", defaultAgent: "agent", defaultRegion: "US" } as const
  const decision = decide({ from, to, trunkId }, { _tag: "Unknown" }, rules)
  return { ...attributes, key: callKey(leg), leg, decision }
}

const statements = async (): Promise<
  ReadonlyArray<readonly [name: string, statement: CompiledQuery<unknown>]>
> => {
  const rowId = randomUUID()
  const claimId = randomUUID()
  const body = new TextEncoder().encode('{"ok":true}')
  const accepted = new Accepted({ answer: { status: 200, contentType: "application/json", body } })
  const taker = { kind: "fleet", name: "worker-1", url: "http://10.0.0.1:9000" } as const
  const claim = {
    call: await someCall(),
    rowId,
    claimId,
    taker,
    idempotentUrls: [],
    explanation: { took_ms: {} },
  }
  const page = { after: undefined, limit: 1_000 }
  const bounds = { cutoffMs: Date.now() - 10 * 86_400_000, dryRun: false }
  return [
    ["claim of a new call", newCalls.statement([{ ...claim, answerWithinMs: 20_000 }])],
    ["claim of any call", claimStatement({ ...claim, answerWithinMs: 20_000 })],
    [
      "settle",
      settleStatement({
        held: { callRowId: rowId, claimId, attempt: 1 },
        outcome: accepted,
        tookMs: { relay: 2 },
      }),
    ],
    ["watch: lapsed leases", lapseStatement],
    ["watch: calls that are due", takeStatement(10, true)],
    ["watch: rooms that are open", openRoomsStatement(10)],
    ["prune: calls", pruneCallsStatement(page, bounds)],
    ["prune: rooms", pruneRoomsStatement(page, bounds)],
  ]
}

const explainAll = async (client: pg.Client): Promise<ReadonlyArray<Plan>> => {
  const plans: Array<Plan> = []
  await client.query("BEGIN")
  for (const [name, { parameters, sql }] of await statements()) {
    const explain = `EXPLAIN (ANALYZE, BUFFERS) ${sql}`
    const { rows } = await client.query<Record<"QUERY PLAN", string>>(explain, [...parameters])
    plans.push({ name, plan: rows.map((row) => row["QUERY PLAN"]).join("\n") })
  }
  await client.query("ROLLBACK")
  return plans
}

/** The plans of the statements on the database of that URL, each carried out and taken back. */
export const plansOf = async (url: string): Promise<ReadonlyArray<Plan>> => {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    // The first time, a connection reads the functions and the tables' descriptions.
    await explainAll(client)
    return await explainAll(client)
  } finally {
    await client.end()
  }
}
