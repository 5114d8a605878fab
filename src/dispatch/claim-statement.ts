// The statements that decide who hands a call over.

import { type RawBuilder, sql } from "kysely"
import type { Call } from "../calls/call.ts"
import {
  anyMoves,
  joinedOf,
  keyOfLeg,
  legColumns,
  mergesOf,
  namesOf,
  roomOf,
  ruleOf,
  valuesOf,
} from "../calls/call-row.ts"
import { changeColumns, type LogChange, type Logged, loggedColumns, loggedOf } from "../calls/changes.ts"
import { type CallState, storableJson } from "../database/schema.ts"
import { type Batch, batch, type Of, ofPart, statement } from "../database/statement.ts"
import { leaseUntil, replica } from "./lease.ts"
import { agentOf, type Taker, urlOf, workerOf } from "./taker.ts"

/** What the statements say of the call's row, as it is afterwards. */
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

/** What both statements are made of. Everything that decides is read from the row itself, `c`. */
const partsOf = (of: Of<[input: ClaimInput]>) => {
  const ofCall = ofPart(of, ({ call }) => call)
  const ofTaker = ofPart(of, ({ taker }) => taker)
  const columns = legColumns(ofCall, () => "inbound")
  const room = sql<string>`${ofCall(roomOf)}::text`
  const claimId = sql<string>`${of((input) => input.claimId)}::uuid`

  const left = sql<boolean>`coalesce(c.caller_left_ms >= ${ofCall(joinedOf)}::bigint, false)`
  const lapsed = sql<boolean>`(c.state = 'handing' AND c.lease_until <= clock_timestamp())`
  const inbound = sql<boolean>`c.direction IS DISTINCT FROM 'outbound'`
  const untouched = sql<boolean>`c.state IN ('none', 'waiting')`
  const takesFresh = sql<boolean>`(${untouched} AND ${ofTaker((taker) => taker !== undefined)}::boolean)`
  const takesAgain = sql<boolean>`((c.state = 'uncertain' OR (${lapsed} AND c.answer_status IS NULL))
    AND coalesce(c.worker_url = ANY (${of(({ idempotentUrls }) => idempotentUrls)}::text[]), false))`
  const takes = sql<boolean>`(${inbound} AND NOT ${left} AND (${takesFresh} OR ${takesAgain}))`
  const begins = sql<boolean>`(${inbound} AND NOT ${left} AND c.state = 'none')`

  const key = keyOfLeg(ofCall)
  const insert = sql`
    INSERT INTO calls AS c (
      id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, agent_name, metadata, target,
      explanation, answer_within, claimed_at, ${namesOf(columns)}
    )
    SELECT
      ${of(({ rowId }) => rowId)}::uuid, given.key,
      ${ofTaker((taker) => (taker === undefined ? "waiting" : "handing"))}::text, ${claimId}, ${replica}::text,
      ${leaseUntil}, ${ofTaker((taker) => (taker === undefined ? 0 : 1))}::integer, ${ofTaker(workerOf)}::text,
      ${ofTaker(urlOf)}::text, ${ofTaker(agentOf)}::text, ${ofCall(({ decision }) => decision.metadata)}::text,
      ${of(({ call, taker }) => taker?.kind ?? call.decision.target)}::text,
      ${of(({ explanation }) => storableJson(explanation))}::jsonb,
      ${of(({ answerWithinMs }) => answerWithinMs)}::integer * interval '1 millisecond', clock_timestamp(),
      ${valuesOf(columns)}
    FROM who AS given`

  return { claimId, columns, ofCall, room, key, left, takes, untouched, lapsed, begins, insert, inbound }
}

/** The first attempt of those claims, which `begun` tells from what else became of a row. */
const attempt = (begun: RawBuilder<boolean>) => sql`attempt AS (
    INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url)
    SELECT id, attempts, claim, target, coalesce(worker, agent_name), worker_url FROM claimed WHERE ${begun}
  )`

/** Who joined the room before that (ms), is a participant of a LiveKit that has crashed. */
const ghostsBefore = (room: RawBuilder<string>) => sql`(
    SELECT CASE WHEN s.restarted_at_ms > s.started_at_ms THEN s.restarted_at_ms - 2000 END
    FROM sessions s WHERE s.room_key = ${room})`

const attemptColumns = ["id", "state", "claim", "attempts", "worker", "worker_url", "agent_name"]

/** A call that is new, as it is after its first claim. */
export interface NewCallRow extends Logged {
  readonly id: string
  readonly ghosts_before_ms: string | number | null
}

/**
 * Claims calls that have a dispatch rule and of which nothing is known yet, as nearly all are. No row for one that is
 * known: there the whole claim is to decide.
 */
export const newCalls: Batch<ClaimInput, NewCallRow> = batch(
  (of) => {
    const { insert, key } = partsOf(of)
    return sql`
    WITH who AS MATERIALIZED (SELECT ${key} AS key, given.* FROM given),
    claimed AS (
      ${insert} WHERE (SELECT k.id FROM calls k WHERE k.call_key = given.key) IS NULL
      ON CONFLICT (call_key) DO NOTHING
      RETURNING ${loggedOf("c", ["room_key", ...attemptColumns])}
    ), ${attempt(sql`state = 'handing'`)}
    SELECT c.id, ${ghostsBefore(sql`c.room_key`)} AS ghosts_before_ms, ${loggedColumns("c")} FROM claimed c
  `
  },
  {
    nameOf: ({ rowId }) => rowId,
    nameIn: ({ id }) => id,
    // A call's names are locked first, then its room.
    orderOf: ({ call }) => `${roomOf(call)} ${call.key}`,
  },
)

// What the verdict is made from.
const verdictColumns = [
  "unsent",
  "lease_until",
  "caller_left_ms",
  "answer_status",
  "answer_type",
  "answer_body",
]

/**
 * Claims a call, whatever is known of it. One statement: PostgreSQL locks the row and reads it anew where two
 * deliveries meet, so that the second sees what the first has stored.
 */
export const claimStatement = statement<[input: ClaimInput], ClaimRow>((of) => {
  const parts = partsOf(of)
  const { begins, claimId, columns, inbound, lapsed, left, ofCall, room, takes, untouched } = parts
  const writes = sql<boolean>`(${takes} OR ${lapsed} OR ${begins} OR (${inbound} AND ${anyMoves(columns)}))`
  const won = sql<boolean>`(c.claim = ${claimId} AND c.state = 'handing')`
  const verdict = sql`c.id, c.state, ${won} AS won, c.attempts, c.attempts - 1 > c.unsent AS resend,
    coalesce(c.lease_until > clock_timestamp(), false) AS lease_valid, ${left} AS "left", c.worker, c.worker_url,
    c.answer_status, c.answer_type, c.answer_body, CASE WHEN ${won} THEN ${ghostsBefore(room)} END AS ghosts_before_ms`
  const hasRule = sql<boolean>`${ofCall((call) => ruleOf(call) !== "")}::boolean`
  const takesNew = sql<boolean>`(${takes} AND ${untouched})`
  // Without a rule a leg keeps its room only once it was claimed as an inbound call.
  const mayHold = sql<boolean>`(${hasRule} OR coalesce(c.direction = 'inbound', false))`
  const whole = sql`${verdict}, before.claimed_at IS NOT NULL AS known,
    ${changeColumns("before", "c")}`
  return sql`
    WITH who AS MATERIALIZED (SELECT ${parts.key} AS key),
    before AS (SELECT ${loggedOf("b", ["claimed_at"])} FROM calls b, who WHERE b.call_key = who.key),
    claimed AS (
      ${parts.insert}
      WHERE ${hasRule}
        OR NOT EXISTS (SELECT 1 FROM calls o WHERE o.room_key = ${room} AND o.call_key <> given.key)
        OR EXISTS (SELECT 1 FROM calls o WHERE o.call_key = given.key AND o.direction = 'inbound')
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
      WHERE ${writes}
      RETURNING ${loggedOf("c", [...attemptColumns, ...verdictColumns])}
    ), ${attempt(sql`claim = ${claimId} AND state = 'handing'`)}
    SELECT ${whole}, true AS moved, false AS stale, false AS room_taken
    FROM claimed c LEFT JOIN before ON true
    UNION ALL
    SELECT ${whole}, false AS moved, ${takes} AND ${mayHold} AS stale, ${takes} AND NOT ${mayHold} AS room_taken
    FROM who JOIN calls c ON c.call_key = who.key LEFT JOIN before ON true
    WHERE NOT EXISTS (SELECT 1 FROM claimed)
  `
})
