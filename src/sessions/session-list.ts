// The queries of sessions, for whoever looks at them.

import { type RawBuilder, sql } from "kysely"
import { all, atMicros, type Key, micros, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"

type Ms = string | number | null

export interface SessionRow {
  readonly room_key: string
  readonly room_sid: string
  readonly room_name: string
  readonly status: "ready" | "live" | "stopped"
  readonly started_at_ms: Ms
  readonly restarted_at_ms: Ms
  readonly ended_at_ms: Ms
  readonly created_at: Date
  readonly created_micros: string
}

export interface SessionFilter {
  readonly status?: string
  readonly room_name?: string
}

const session = sql`room_key, room_sid, room_name, status, started_at_ms, restarted_at_ms, ended_at_ms, created_at,
  ${micros("created_at")} AS created_micros`

// The index of names has a day after the other (`sql/0013_days_first.sql`), which makes no other order.
const dayOf = (at: RawBuilder<unknown>) => sql`((${at} AT TIME ZONE 'UTC')::date)`
const day = dayOf(sql`created_at`)

/** Newest first. */
export const sessionsStatement = ({ after, limit }: Page<Key>, filter: SessionFilter) => {
  const named = where(
    filter.room_name,
    (name) => sql`left(room_name, 100) = left(${name}::text, 100) AND room_name = ${name}::text
      AND ${where(after, ([at]) => sql`${day} <= ${dayOf(atMicros(at))}`) ?? sql`true`}`,
  )
  return sql<SessionRow>`
    SELECT ${session} FROM sessions
    WHERE ${all([
      where(after, ([at, key]) => sql`(created_at, room_key) < (${atMicros(at)}, ${key}::text)`),
      where(filter.status, (status) => sql`status = ${status}::text`),
      named,
    ])}
    ORDER BY ${named === undefined ? sql`` : sql`${day} DESC, `}created_at DESC, room_key DESC LIMIT ${limit}::integer
  `.compile(query)
}

/** By the room's sid, else its name. */
export const sessionStatement = (roomKey: string) =>
  sql<SessionRow>`SELECT ${session} FROM sessions WHERE room_key = ${roomKey}::text`.compile(query)
