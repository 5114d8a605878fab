// The statements of the watch: which calls are due, and what becomes of them. When a call is due next, `watch_call`
// says (sql/0010_settle_in_place.sql).

import { sql } from "kysely"
import { query } from "../database/schema.ts"
import { leaseMs } from "../dispatch/lease.ts"
import { isStill, type SeenCall, wasRescued } from "../dispatch/rescue-statement.ts"

type Ms = string | number | null

/** A call that is due, with all that is needed to hand it over. */
export interface DueRow extends SeenCall {
  readonly call_key: string
  readonly answered: boolean
  readonly flagged: boolean
  readonly rescued: boolean
  /** Since the call was first seen. */
  readonly age_ms: number
  readonly caller: string | null
  readonly dialed: string | null
  readonly trunk_id: string | null
  readonly rule_id: string | null
  readonly sip_call_id: string | null
  readonly sip_call_id_full: string | null
  readonly participant_identity: string | null
  readonly room_name: string | null
  readonly room_sid: string | null
  readonly caller_joined_ms: Ms
  readonly ghosts_before_ms: Ms
  /** The workers that were asked, by their URLs. */
  readonly tried: ReadonlyArray<string>
}

// Asked once for each statement: compared with the function itself, which may change meanwhile, no index would serve.
const now = sql`(SELECT clock_timestamp())`

// Of a time that it does not know PostgreSQL believes that a third of all calls is before it, and reads millions. That
// hardly any call is watched at all it does know.
const isDue = sql`watch_at IS NOT NULL AND watch_at <= ${now}`

// Whoever has taken a call and dies over it leaves it to the others after so long.
const lookedAfterFor = sql.lit("15 seconds")

/** Ends hand-overs whose lease has lapsed: what became of them nobody knows, unless an earlier one was answered. */
export const lapseStatement = sql<{ call_key: string; sip_call_id: string | null }>`
  WITH dead AS (
    SELECT d.call_id, d.attempt FROM dispatch_attempts d
    WHERE d.outcome IS NULL AND NOT d.lapsed AND d.started_at <= ${now} - ${sql.lit(`${leaseMs} milliseconds`)}::interval
      AND NOT EXISTS (
        SELECT FROM calls c WHERE c.id = d.call_id AND c.state = 'handing' AND c.lease_until > clock_timestamp())
    ORDER BY d.started_at LIMIT 100 FOR UPDATE SKIP LOCKED
  ), known AS (
    UPDATE dispatch_attempts d SET lapsed = true FROM dead WHERE d.call_id = dead.call_id AND d.attempt = dead.attempt
  )
  UPDATE calls c SET state = state_after(c)
  WHERE c.id IN (SELECT call_id FROM dead) AND c.state = 'handing' AND c.lease_until <= clock_timestamp()
  RETURNING c.call_key, c.sip_call_id
`.compile(query)

/** Takes calls that are due, each by one replica; those that wait for the fleet only where it has somebody. */
export const takeStatement = (limit: number, fleetHasSomebody: boolean) =>
  sql<DueRow>`
    WITH due AS (
      SELECT id FROM calls
      WHERE ${isDue} AND state <> 'handing'
        AND (state <> 'waiting' OR target IS DISTINCT FROM 'fleet' OR ${fleetHasSomebody}::boolean)
      ORDER BY watch_at LIMIT ${limit}::integer FOR UPDATE SKIP LOCKED
    )
    UPDATE calls c SET watched = c.watched + 1, watch_at = clock_timestamp() + ${lookedAfterFor}::interval
    FROM due WHERE c.id = due.id
    RETURNING c.id, c.call_key, c.state, c.claim, c.answered_at_ms IS NOT NULL AS answered,
      c.unanswered_at IS NOT NULL AS flagged, ${wasRescued} AS rescued,
      (extract(epoch FROM clock_timestamp() - c.created_at) * 1000)::float8 AS age_ms,
      c.caller, c.dialed, c.trunk_id, c.rule_id, c.sip_call_id, c.sip_call_id_full, c.participant_identity,
      c.room_name, c.room_sid, c.caller_joined_ms,
      (SELECT CASE WHEN s.restarted_at_ms > s.started_at_ms THEN s.restarted_at_ms - 2000 END
        FROM sessions s WHERE s.room_key = c.room_key) AS ghosts_before_ms,
      ARRAY(SELECT d.worker_url FROM dispatch_attempts d WHERE d.call_id = c.id AND d.worker_url IS NOT NULL) AS tried
  `.compile(query)

/** Due again in so many milliseconds; `undefined`: never. */
export const deferStatement = (row: DueRow, ms: number | undefined) =>
  sql`
    UPDATE calls c SET watch_at = ${ms === undefined ? sql`NULL` : sql`clock_timestamp() + ${ms}::integer * interval '1 millisecond'`}
    WHERE ${isStill(row)}
  `.compile(query)

/** Notes that nobody has answered in time; a row where that was not known yet. */
export const flagStatement = ({ id }: DueRow) =>
  sql<{ id: string }>`
    UPDATE calls c SET unanswered_at = clock_timestamp()
    WHERE c.id = ${id}::uuid AND c.unanswered_at IS NULL AND c.answered_at_ms IS NULL AND c.ended_at_ms IS NULL
    RETURNING c.id
  `.compile(query)

/** Somebody is with the caller, whatever became of the hand-over. */
export const answeredStatement = (row: DueRow) =>
  sql`
    UPDATE calls c SET state = 'accepted', outcome = 'accepted', answer_status = 200,
      answer_type = 'application/json', answer_body = convert_to('{"ok":true}', 'UTF8'), settled_at = clock_timestamp()
    WHERE ${isStill(row)} AND c.state IN ('uncertain', 'rejected')
  `.compile(query)

// A room is not listed in the moment in which it is made.
const settledFor = sql.lit("30 seconds")
const askedEvery = sql.lit("1 minute")
const longestOpen = sql.lit("1 day")

/** Takes rooms whose end nobody has told us, to ask LiveKit whether it has them; `old`: it need not be asked. */
export const openRoomsStatement = (limit: number) =>
  sql<{ room_key: string; room_sid: string; room_name: string; old: boolean }>`
    WITH due AS (
      SELECT room_key FROM sessions
      WHERE ended_at_ms IS NULL AND created_at < clock_timestamp() - ${settledFor}::interval
        AND coalesce(checked_at, created_at) < clock_timestamp() - CASE WHEN checked_at IS NULL
          THEN ${settledFor}::interval ELSE ${askedEvery}::interval END
      ORDER BY coalesce(checked_at, created_at) LIMIT ${limit}::integer FOR UPDATE SKIP LOCKED
    )
    UPDATE sessions s SET checked_at = clock_timestamp() FROM due WHERE s.room_key = due.room_key
    RETURNING s.room_key, s.room_sid, s.room_name, s.created_at < clock_timestamp() - ${longestOpen}::interval AS old
  `.compile(query)
