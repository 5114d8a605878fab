// The statements that delete old calls and rooms: one for each batch, so that whoever stops in the middle leaves no call
// without its attempts, its names or its room.

import { type RawBuilder, sql } from "kysely"
import { all, atMicros, type Key, micros, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"

/** What one batch has looked at, and what of it went, or would go. */
export interface Batch {
  readonly looked: number
  /** The key of the last row looked at; null where there was none. */
  readonly last: Key | null
  /** How old that one is: milliseconds since 1970. */
  readonly last_ms: number | null
  readonly calls: number
  readonly rooms: number
}

/** What goes: all that had ended before the cutoff, or nothing, and it is only counted. */
export interface Bounds {
  /** Milliseconds since 1970, by the database's clock. */
  readonly cutoffMs: number
  readonly dryRun: boolean
}

/** The time that was so long ago, by the database's clock. */
export const cutoffStatement = (ageMs: number) =>
  sql<{ cutoff_ms: number }>`
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000 - ${ageMs}::bigint)::float8 AS cutoff_ms
  `.compile(query)

// Whoever writes to an old room at this moment must not wait for us while we wait for them, or the database would end
// one of the two. So a batch that would have to wait for a lock is undone instead.
const waitsForNobody = sql`(SELECT set_config('lock_timeout', '100ms', true)) <> ''`

const column = (table: string, name: string) => sql`${sql.raw(`${table}.${name}`)}`
const before = (cutoffMs: number) => sql`to_timestamp(${cutoffMs}::float8 / 1000)`

// A call whose end nobody has told has ended with its room, and not within a day. Without a session it is one that
// somebody asked us about and that never came.
const endOf = (call: string) => sql`coalesce(${column(call, "ended_at_ms")}, greatest(
    (SELECT s.ended_at_ms FROM sessions s WHERE s.room_key = ${column(call, "room_key")}),
    (extract(epoch FROM ${column(call, "created_at")}) * 1000)::bigint + 86400000))`

// The caller who has left decides, not the state, which stays `waiting` or `uncertain` for good. By our own clock, too,
// the row must be old: a delivery that is still to come must find it.
const isOver = (call: string, { cutoffMs }: Bounds) => sql`(
  ${column(call, "created_at")} < ${before(cutoffMs)} AND ${endOf(call)} < ${cutoffMs}::bigint
  AND ${column(call, "state")} <> 'handing' AND ${column(call, "watch_at")} IS NULL)`

// No call of a room goes before all can: what the log says of one follows from the others, too.
const isRoomOver = (call: string, bounds: Bounds) => sql`NOT EXISTS (
  SELECT FROM sessions s WHERE s.room_key = ${column(call, "room_key")} AND (
    s.ended_at_ms IS NULL OR s.ended_at_ms >= ${bounds.cutoffMs}::bigint
    OR EXISTS (SELECT FROM calls o WHERE o.room_key = s.room_key AND NOT ${isOver("o", bounds)})))`

const hashed = (...parts: ReadonlyArray<string>) => {
  const measured = parts.map((part) => `octet_length(${part}) || ':' || ${part}`).join(" || ")
  return sql`'sha256:' || encode(sha256(convert_to(${sql.raw(measured)}, 'UTF8')), 'hex')`
}

const ids = ["sip_call_id", "sip_call_id_full", "asked_id"]

// All that `call.ts` makes of a call's ids, and of its room with its caller or its leg. By these names they are found,
// for an index by what they stand for would be written with every call.
const namesOfGone = sql`
  SELECT n.alias, g.call_key FROM gone g CROSS JOIN LATERAL (VALUES (g.call_key),
    ${sql.join(ids.flatMap((id) => [sql`(${column("g", id)})`, sql`(${hashed(`g.${id}`)})`]))},
    (${hashed("g.room_name", "g.caller")}), (${hashed("g.room", "g.participant_identity")})) n (alias)
  WHERE n.alias <> ''`

// Looked up one by one, however many the planner believes there are.
const anyOf = (rows: RawBuilder<unknown>) => sql`ANY (ARRAY(${rows}))`

const removal = (what: RawBuilder<unknown>, returned: RawBuilder<unknown>, { dryRun }: Bounds) =>
  dryRun ? sql`SELECT ${returned} FROM ${what}` : sql`DELETE FROM ${what} RETURNING ${returned}`

const unlessDry = (part: RawBuilder<unknown>, { dryRun }: Bounds) => (dryRun ? sql.raw("") : part)

/** The rooms of `rooms`, and what the batch comes to; `looked` has the rows in question, by `at` and `id`. */
const roomsAndCount = (
  calls: RawBuilder<unknown>,
  key: RawBuilder<unknown>,
  ms: RawBuilder<unknown>,
  bounds: Bounds,
) => sql`
  sessions_gone AS (
    ${removal(sql`sessions s WHERE s.room_key = ${anyOf(sql`SELECT room_key FROM rooms`)}`, sql`s.room_key`, bounds)}
  )${unlessDry(
    sql`, answerers_gone AS (DELETE FROM answerers a WHERE a.room_key = ${anyOf(sql`SELECT room_key FROM rooms`)})`,
    bounds,
  )}
  SELECT (SELECT count(*)::integer FROM looked) AS looked, l.last, l.last_ms,
    ${calls} AS calls, (SELECT count(*)::integer FROM sessions_gone) AS rooms
  FROM (SELECT 1) one LEFT JOIN (
    SELECT ARRAY[${key}, id::text] AS last, ${ms} AS last_ms FROM looked ORDER BY at DESC, id DESC LIMIT 1
  ) l ON true`

/**
 * Deletes those of the next calls, oldest first, that are over, with all that is theirs: their attempts, their names,
 * and their room where no other call is in it. Leads stay.
 */
export const pruneCallsStatement = ({ after, limit }: Page<Key>, bounds: Bounds) =>
  sql<Batch>`
    WITH looked AS MATERIALIZED (
      SELECT started_at_ms AS at, id FROM calls
      WHERE ${all([
        waitsForNobody,
        sql`started_at_ms < ${bounds.cutoffMs}::bigint`,
        where(after, ([ms, id]) => sql`(started_at_ms, id) > (${ms}::bigint, ${id}::uuid)`),
      ])}
      ORDER BY started_at_ms, id LIMIT ${limit}::integer
    ), gone AS (
      ${removal(
        sql`calls c WHERE c.id = ${anyOf(sql`SELECT id FROM looked`)}
          AND ${isOver("c", bounds)} AND ${isRoomOver("c", bounds)}`,
        sql`c.call_key, c.room_key, c.room_name, c.sip_call_id, c.sip_call_id_full, c.asked_id,
          c.participant_identity, coalesce(c.caller_e164, c.caller) AS caller,
          coalesce(nullif(c.room_sid, ''), c.room_name) AS room`,
        bounds,
      )}
    ), rooms AS MATERIALIZED (
      SELECT g.room_key FROM gone g WHERE g.room_key <> '' GROUP BY g.room_key
      HAVING count(*) = (SELECT count(*) FROM calls o WHERE o.room_key = g.room_key)
    )${unlessDry(
      sql`, names AS MATERIALIZED (${namesOfGone}), names_gone AS (
        DELETE FROM call_aliases a USING names n
        WHERE a.alias = ${anyOf(sql`SELECT alias FROM names`)} AND a.alias = n.alias AND a.call_key = n.call_key
      )`,
      bounds,
    )}, ${roomsAndCount(sql`(SELECT count(*)::integer FROM gone)`, sql`at::text`, sql`at::float8`, bounds)}
  `.compile(query)

/** Deletes those of the next rooms, oldest first, that are over and in which no call is, as there are without calls. */
export const pruneRoomsStatement = ({ after, limit }: Page<Key>, bounds: Bounds) =>
  sql<Batch>`
    WITH looked AS MATERIALIZED (
      SELECT created_at AS at, room_key AS id FROM sessions
      WHERE ${all([
        waitsForNobody,
        sql`created_at < ${before(bounds.cutoffMs)}`,
        where(after, ([at, key]) => sql`(created_at, room_key) > (${atMicros(at)}, ${key}::text)`),
      ])}
      ORDER BY created_at, room_key LIMIT ${limit}::integer
    ), rooms AS MATERIALIZED (
      SELECT s.room_key FROM sessions s
      WHERE s.room_key = ${anyOf(sql`SELECT id FROM looked`)} AND s.ended_at_ms < ${bounds.cutoffMs}::bigint
        AND NOT EXISTS (SELECT FROM calls o WHERE o.room_key = s.room_key)
    ), ${roomsAndCount(sql`0`, micros("at"), sql`(extract(epoch FROM at) * 1000)::float8`, bounds)}
  `.compile(query)
