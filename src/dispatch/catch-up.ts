// What was decided and told while the database was away, written when it is back; by whichever process, as often as
// it takes.

import { Effect, Layer } from "effect"
import { sql } from "kysely"
import { isRoomTaken, keyNamed } from "../calls/call-row.ts"
import { tellChanges } from "../calls/changes.ts"
import { Backlog } from "../database/backlog.ts"
import { Database } from "../database/database.ts"
import { type DatabaseError, DatabaseUnavailable } from "../database/errors.ts"
import { query } from "../database/schema.ts"
import { Routing } from "../routing/routing.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import { type KeptAsk, type KeptClaim, type KeptOutcome, keptNames } from "./away.ts"
import { claimStatement } from "./claim-statement.ts"
import { Ledger } from "./ledger.ts"
import { eventRecord, type RecordNeeds, writeEvent } from "./record.ts"
import { settleStatement } from "./settle-statements.ts"
import { agentOf, urlOf, workerOf } from "./taker.ts"

type Needs = Backlog | Database | Ledger | RecordNeeds

// Somebody else has had the call meanwhile, or may have: that this process has had it, too, is told all the same.
const besideStatement = ({ call, claimId, taker }: KeptClaim) =>
  sql`
    WITH moved AS (
      UPDATE calls c SET attempts = c.attempts + 1,
        state = CASE WHEN c.state IN ('none', 'waiting') THEN 'uncertain' ELSE c.state END
      WHERE c.call_key = ${keyNamed(call.key)}
        AND NOT EXISTS (SELECT 1 FROM dispatch_attempts d WHERE d.call_id = c.id AND d.claim = ${claimId}::uuid)
      RETURNING c.id, c.attempts
    )
    INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url)
    SELECT id, attempts, ${claimId}::uuid, ${taker?.kind ?? "fleet"}::text,
      coalesce(${workerOf(taker)}::text, ${agentOf(taker)}::text), ${urlOf(taker)}::text FROM moved
  `.compile(query)

const attemptStatement = ({ claimId, key, rowId }: KeptOutcome) =>
  sql<{ call_id: string; attempt: number }>`
    SELECT d.call_id, d.attempt FROM calls c JOIN dispatch_attempts d ON d.call_id = c.id
    WHERE (c.id = ${rowId}::uuid OR c.call_key = ${keyNamed(key)}) AND d.claim = ${claimId}::uuid
    ORDER BY d.attempt DESC LIMIT 1
  `.compile(query)

const catchUpClaim = Effect.fnUntraced(function* (
  kept: KeptClaim,
): Effect.fn.Return<void, DatabaseError, Database> {
  const database = yield* Database
  const statement = claimStatement({ ...kept, idempotentUrls: [] })
  for (let look = 0; look < 2; look++) {
    const rows = yield* database.run(statement).pipe(Effect.catchIf(isRoomTaken, () => Effect.succeed([])))
    const row = rows[0]
    if (row === undefined || row.stale) continue
    if (row.moved) yield* tellChanges([row])
    if (row.won || kept.taker === undefined) return
    break
  }
  yield* database.run(besideStatement(kept))
})

const catchUpOutcome = Effect.fnUntraced(function* (
  kept: KeptOutcome,
): Effect.fn.Return<void, DatabaseError, Database> {
  const database = yield* Database
  const [row] = yield* database.run(attemptStatement(kept))
  if (row === undefined) return yield* Effect.logWarning("An outcome is kept of which there is no attempt")
  const ref = { callRowId: row.call_id, claimId: kept.claimId, attempt: row.attempt }
  yield* database.run(settleStatement({ held: ref, outcome: kept.outcome, tookMs: kept.tookMs }))
})

const catchUpAsk = Effect.fnUntraced(function* ({
  answer,
  ask,
}: KeptAsk): Effect.fn.Return<void, DatabaseError, Ledger | Routing> {
  const routing = yield* Routing
  const ledger = yield* Ledger
  const found = yield* routing.decide({ from: ask.from, to: ask.to, trunkId: ask.trunkId })
  if (found.error === "Database error")
    return yield* new DatabaseUnavailable({ cause: "the number cannot be looked up" })
  // What the number is may be known only now; what whoever asked was told stays.
  const { agent, metadata } = ask.decision
  yield* ledger.askNow({ ...ask, decision: { ...found, agent, metadata } }, answer)
})

/** Begins to write what the database could not take. */
export const catchUpLayer: Layer.Layer<never, never, Needs> = Layer.effectDiscard(
  Effect.gen(function* () {
    const backlog = yield* Backlog
    const context = yield* Effect.context<Needs>()
    // What was kept is what these very functions were given.
    const writer =
      <A>(write: (body: A) => Effect.Effect<unknown, DatabaseError, Needs>) =>
      (body: unknown) =>
        Effect.provideContext(write(body as A), context)
    yield* backlog.begin({
      [keptNames.claim]: writer(catchUpClaim),
      [keptNames.outcome]: writer(catchUpOutcome),
      [keptNames.ask]: writer(catchUpAsk),
      [eventRecord]: writer(({ claims, event }: { event: WebhookEvent; claims: boolean }) =>
        writeEvent(event, claims),
      ),
    })
  }),
)
