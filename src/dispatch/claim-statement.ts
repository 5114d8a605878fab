// The statement that decides who hands a call over.

import { type RawBuilder, sql } from "kysely"
import { type Call, roomKey } from "../calls/call.ts"
import { anyMoves, keyOfLeg, legColumns, mergesOf, namesOf, ruleOf, valuesOf } from "../calls/call-row.ts"
import { changeColumns, type LogChange } from "../calls/changes.ts"
import { type CallState, query, storableJson } from "../database/schema.ts"
import { leaseUntil, replica } from "./lease.ts"
import { agentOf, type Taker, urlOf, workerOf } from "./taker.ts"

/** What the statement says of the call's row, as it is afterwards. */
export interface ClaimRow extends LogChange {
  readonly id: string
  readonly state: CallState
  readonly won: boolean
  readonly attempts: number
  readonly resend: boolean
  readonly lease_valid: boolean
  readonly left: boolean
  readonly known: boolean
  readonly ghosts_before_ms: string | number | null
  /** False where nothing was written. */
  readonly moved: boolean
  /** Read as it was before another delivery changed it: by what it says, the claim would have succeeded. */
  readonly stale: boolean
  /** Only its leave was known, it has no dispatch rule, and meanwhile its room holds somebody else. */
  readonly room_taken: boolean
  readonly worker: string | null
  readonly worker_url: string | null
  readonly answer_status: number | null
  readonly answer_type: string | null
  readonly answer_body: Uint8Array | null
}

export interface ClaimInput {
  readonly call: Call
  readonly rowId: string
  readonly claimId: string
  readonly taker: Taker | undefined
  readonly idempotentUrls: ReadonlyArray<string>
  readonly explanation: unknown
  /** How long somebody may take to join the caller, before the watch looks after the call. */
  readonly answerWithinMs: number
}

const when = <A>(condition: RawBuilder<boolean>, then: RawBuilder<A>, otherwise: RawBuilder<A>) =>
  sql<A>`CASE WHEN ${condition} THEN ${then} ELSE ${otherwise} END`

// One statement. Everything that decides is read from the row itself (`c`), which PostgreSQL locks and reads
// anew where two deliveries meet, so that the second sees what the first has stored.
export const claimStatement = (input: ClaimInput) => {
  const { call, claimId, taker } = input
  const { event, participant } = call.leg
  const columns = legColumns(call, "inbound")
  const room = roomKey(event)
  const joined = sql<number>`${participant.joinedAtMs}::bigint`
  const target = taker?.kind ?? call.decision.target
  const hasRule = sql<boolean>`${ruleOf(call) !== ""}::boolean`

  const left = sql<boolean>`coalesce(c.caller_left_ms >= ${joined}, false)`
  const lapsed = sql<boolean>`(c.state = 'handing' AND c.lease_until <= clock_timestamp())`
  const inbound = sql<boolean>`c.direction IS DISTINCT FROM 'outbound'`
  const untouched = sql<boolean>`c.state IN ('none', 'waiting')`
  const takesFresh = sql<boolean>`(${untouched} AND ${taker !== undefined}::boolean)`
  const takesAgain = sql<boolean>`((c.state = 'uncertain' OR (${lapsed} AND c.answer_status IS NULL))
    AND coalesce(c.worker_url = ANY (${input.idempotentUrls}::text[]), false))`
  const takes = sql<boolean>`(${inbound} AND NOT ${left} AND (${takesFresh} OR ${takesAgain}))`
  const takesNew = sql<boolean>`(${takes} AND ${untouched})`
  // Without a rule a leg keeps its room only once it was claimed as an inbound call.
  const mayHold = sql<boolean>`(${hasRule} OR coalesce(c.direction = 'inbound', false))`
  const begins = sql<boolean>`(${inbound} AND NOT ${left} AND c.state = 'none')`

  const verdict = sql`c.id, c.state, c.claim = ${claimId}::uuid AND c.state = 'handing' AS won, c.attempts,
    c.attempts - 1 > c.unsent AS resend, coalesce(c.lease_until > clock_timestamp(), false) AS lease_valid,
    ${left} AS "left", c.worker, c.worker_url, c.answer_status, c.answer_type, c.answer_body,
    before.claimed_at IS NOT NULL AS known,
    (SELECT CASE WHEN s.restarted_at_ms > s.started_at_ms THEN s.restarted_at_ms - 2000 END
      FROM sessions s WHERE s.room_key = ${room}::text) AS ghosts_before_ms,
    ${changeColumns("before", "c")}`

  return sql<ClaimRow>`
    WITH who AS MATERIALIZED (SELECT ${keyOfLeg(call)} AS key),
    before AS (SELECT b.* FROM calls b, who WHERE b.call_key = who.key),
    claimed AS (
      INSERT INTO calls AS c (
        id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, agent_name, metadata, target,
        explanation, answer_within, claimed_at, ${namesOf(columns)}
      )
      SELECT
        ${input.rowId}::uuid, who.key, ${taker === undefined ? "waiting" : "handing"}::text,
        ${claimId}::uuid, ${replica}::text, ${leaseUntil}, ${taker === undefined ? 0 : 1}::integer,
        ${workerOf(taker)}, ${urlOf(taker)}, ${agentOf(taker)}, ${call.decision.metadata}::text, ${target}::text,
        ${storableJson(input.explanation)}::jsonb, ${input.answerWithinMs}::integer * interval '1 millisecond',
        clock_timestamp(), ${valuesOf(columns)}
      FROM who
      WHERE ${hasRule}
        OR NOT EXISTS (SELECT 1 FROM calls o WHERE o.room_key = ${room}::text AND o.call_key <> who.key)
        OR EXISTS (SELECT 1 FROM calls o WHERE o.call_key = who.key AND o.direction = 'inbound')
      ON CONFLICT (call_key) DO UPDATE SET
        state = CASE
          WHEN ${takes} THEN 'handing'
          WHEN ${lapsed} THEN state_after(c)
          WHEN ${begins} THEN 'waiting'
          ELSE c.state END,
        claim = ${when(takes, sql`excluded.claim`, sql`c.claim`)},
        owner = ${when(takes, sql`excluded.owner`, sql`c.owner`)},
        lease_until = ${when(takes, sql`excluded.lease_until`, sql`c.lease_until`)},
        attempts = c.attempts + ${when(takes, sql`1`, sql`0`)},
        worker = ${when(takesNew, sql`excluded.worker`, sql`c.worker`)},
        worker_url = ${when(takesNew, sql`excluded.worker_url`, sql`c.worker_url`)},
        agent_name = ${when(takesNew, sql`excluded.agent_name`, sql`c.agent_name`)},
        target = ${when(takesNew, sql`excluded.target`, sql`coalesce(c.target, excluded.target)`)},
        metadata = coalesce(c.metadata, excluded.metadata),
        explanation = ${when(takes, sql`excluded.explanation`, sql`coalesce(c.explanation, excluded.explanation)`)},
        answer_within = excluded.answer_within,
        claimed_at = ${when(takes, sql`excluded.claimed_at`, sql`coalesce(c.claimed_at, excluded.claimed_at)`)},
        ${mergesOf(columns)}
      WHERE ${takes} OR ${lapsed} OR ${begins} OR (${inbound} AND ${anyMoves(columns)})
      RETURNING c.*
    ), attempt AS (
      INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url)
      SELECT id, attempts, ${claimId}::uuid, target, coalesce(worker, agent_name), worker_url FROM claimed
      WHERE claim = ${claimId}::uuid AND state = 'handing'
    )
    SELECT ${verdict}, true AS moved, false AS stale, false AS room_taken
    FROM claimed c LEFT JOIN before ON true
    UNION ALL
    SELECT ${verdict}, false AS moved, ${takes} AND ${mayHold} AS stale, ${takes} AND NOT ${mayHold} AS room_taken
    FROM who JOIN calls c ON c.call_key = who.key LEFT JOIN before ON true
    WHERE NOT EXISTS (SELECT 1 FROM claimed)
  `.compile(query)
}
