// The statement that gives a call to somebody else because nobody has joined its caller.

import { type RawBuilder, sql } from "kysely"
import type { CallState } from "../database/schema.ts"
import { statement } from "../database/statement.ts"
import { leaseUntil, replica } from "./lease.ts"
import { agentOf, type Taker, urlOf, workerOf } from "./taker.ts"

/** A call as somebody saw it who then asked LiveKit about it. */
export interface SeenCall {
  readonly id: string
  readonly state: CallState
  readonly claim: string | null
}

type InStatement<A> = { readonly [Name in keyof A]: A[Name] | RawBuilder<A[Name]> }

/** Whether the row `c` is that call, and has not moved on meanwhile. */
export const isStill = ({ claim, id, state }: InStatement<SeenCall>): RawBuilder<boolean> =>
  sql<boolean>`(c.id = ${id}::uuid AND c.state = ${state}::text AND c.claim IS NOT DISTINCT FROM ${claim}::uuid)`

// Of a rescue whose process has died nobody knows whether anything was sent; LiveKit says that the caller is alone.
const mostRescues = sql.lit(3)

/** Whether the call `c` has had its rescue: one that sent something, or that was refused. */
export const wasRescued: RawBuilder<boolean> = sql<boolean>`(c.rescues >= ${mostRescues} OR EXISTS (
  SELECT FROM dispatch_attempts d WHERE d.call_id = c.id AND d.rescue AND d.outcome <> 'not-sent'))`

/** Claims a rescue: one a call, never beside an answerer, and never for a caller who has left. */
export const rescueStatement = statement<
  [seen: SeenCall, claimId: string, taker: Taker],
  { attempts: number }
>(
  (of) => sql`
    WITH taken AS (
      UPDATE calls c SET state = 'handing', claim = ${of((_, claimId) => claimId)}::uuid, owner = ${replica}::text,
        lease_until = ${leaseUntil}, claimed_at = clock_timestamp(), attempts = c.attempts + 1, rescues = c.rescues + 1,
        target = ${of((_, __, taker) => taker.kind)}::text, worker = ${of((_, __, taker) => workerOf(taker))}::text,
        worker_url = ${of((_, __, taker) => urlOf(taker))}::text, agent_name = ${of((_, __, taker) => agentOf(taker))}::text
      WHERE ${isStill({
        id: of(({ id }) => id),
        state: of(({ state }) => state),
        claim: of(({ claim }) => claim),
      })} AND c.state IN ('accepted', 'uncertain', 'rejected') AND NOT ${wasRescued}
        AND c.answered_at_ms IS NULL AND c.ended_at_ms IS NULL
      RETURNING c.id, c.attempts, c.claim, c.target, c.worker, c.agent_name, c.worker_url
    ), attempt AS (
      INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url, rescue)
      SELECT id, attempts, claim, target, coalesce(worker, agent_name), worker_url, true FROM taken
    )
    SELECT attempts FROM taken
  `,
)
