// The list of calls, newest first, by whatever an operator looks for.

import { type RawBuilder, sql } from "kysely"
import { all, type Key, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"

type Ms = string | number | null

/** What the list says of a call. */
export interface CallSummaryRow {
  readonly id: string
  readonly call_key: string
  readonly direction: string | null
  readonly status: string | null
  readonly state: string
  readonly outcome: string | null
  readonly caller: string | null
  readonly caller_e164: string | null
  readonly dialed: string | null
  readonly dialed_e164: string | null
  readonly target: string | null
  readonly worker: string | null
  readonly agent_name: string | null
  readonly attempts: number
  readonly tenant_id: string | null
  readonly campaign_id: string | null
  readonly did_id: string | null
  readonly lead_id: string | null
  readonly trunk_id: string | null
  readonly room_name: string | null
  readonly room_sid: string | null
  readonly started_at_ms: Ms
  readonly answered_at_ms: Ms
  readonly ended_at_ms: Ms
  readonly ring_ms: Ms
  readonly duration_ms: Ms
  readonly hung_up_by: string | null
  readonly end_reason: string | null
  readonly answerers: number
  readonly unanswered: boolean
}

/** A row of the list; where the search has to go on without a hit, only `resume_ms` and `resume_id` are set. */
export interface CallListRow extends Omit<CallSummaryRow, "id"> {
  readonly id: string | null
  readonly resume_ms: Ms
  readonly resume_id: string | null
}

export interface CallFilter {
  readonly fromMs?: number | undefined
  readonly toMs?: number | undefined
  readonly direction?: string | undefined
  readonly status?: string | undefined
  readonly outcome?: string | undefined
  readonly tenantId?: string | undefined
  readonly campaignId?: string | undefined
  /** E.164, of the caller or dialed. */
  readonly number?: string | undefined
  /** By number also from before or after the time when it was one of ours. */
  readonly did?: { readonly id: string } | { readonly number: string } | undefined
  readonly worker?: string | undefined
  readonly unanswered?: boolean | undefined
}

/** Accepted, and nobody has joined. */
export const unanswered = sql<boolean>`coalesce(c.direction = 'inbound' AND c.state = 'accepted'
  AND c.answered_at_ms IS NULL, false)`

/** The columns of a `CallSummaryRow`. */
export const summaryColumns = sql`
  c.id, c.call_key, c.direction, c.status, c.state, c.outcome, c.caller, c.caller_e164, c.dialed, c.dialed_e164,
  c.target, c.worker, c.agent_name, c.attempts, c.tenant_id, c.campaign_id, c.did_id, c.lead_id, c.trunk_id,
  c.room_name, c.room_sid, c.started_at_ms, c.answered_at_ms, c.ended_at_ms, c.ring_ms, c.duration_ms,
  c.hung_up_by, c.end_reason, c.answerers, ${unanswered} AS unanswered`

// A search among calls of which next to none match must end before the database's patience does.
const mostScanned = 20_000

const newestFirst = sql`ORDER BY c.started_at_ms DESC, c.id DESC`

// The indexes of numbers have a day after the other (`sql/0013_days_first.sql`), which makes no other order.
const dayOf = (ms: RawBuilder<unknown>) => sql`(${ms} / 86400000)`
const day = dayOf(sql`c.started_at_ms`)
const newestDayFirst = sql`ORDER BY ${day} DESC, c.started_at_ms DESC, c.id DESC`
const withinDays = (filter: CallFilter, after: Key | undefined) => [
  where(after, ([ms]) => sql`${day} <= ${dayOf(sql`${ms}::bigint`)}`),
  where(filter.fromMs, (ms) => sql`${day} >= ${dayOf(sql`${ms}::bigint`)}`),
  where(filter.toMs, (ms) => sql`${day} <= ${dayOf(sql`${ms}::bigint`)}`),
]

const isCaller = (number: string) => sql`(
  left(coalesce(c.caller_e164, c.caller) COLLATE "C", 100) = ${number}::text AND c.caller_e164 = ${number}::text)`

const didId = ({ did }: CallFilter) => (did !== undefined && "id" in did ? did.id : undefined)

const indexed = (filter: CallFilter, after: Key | undefined) => [
  where(after, ([ms, id]) => sql`(c.started_at_ms, c.id) < (${ms}::bigint, ${id}::uuid)`),
  where(filter.fromMs, (ms) => sql`c.started_at_ms >= ${ms}::bigint`),
  where(filter.toMs, (ms) => sql`c.started_at_ms < ${ms}::bigint`),
  where(filter.tenantId, (id) => sql`c.tenant_id = ${id}::uuid`),
  where(filter.campaignId, (id) => sql`c.campaign_id = ${id}::uuid`),
  where(didId(filter), (id) => sql`c.did_id = ${id}::uuid`),
]

const looked = (filter: CallFilter) =>
  [
    where(filter.direction, (direction) => sql`c.direction = ${direction}::text`),
    where(filter.status, (status) => sql`c.status = ${status}::text`),
    where(filter.outcome, (outcome) => sql`c.outcome = ${outcome}::text`),
    where(filter.worker, (worker) => sql`c.worker = ${worker}::text`),
    where(filter.unanswered, (wanted) => sql`${unanswered} = ${wanted}::boolean`),
  ].filter((condition) => condition !== undefined)

// All that a filter or a page needs: a call has texts of some kilobytes.
const narrow = sql`c.id, c.started_at_ms, c.direction, c.status, c.state, c.outcome, c.worker, c.answered_at_ms,
  c.caller_e164`

/** The newest calls that the indexes find: an OR over two of them would have to sort all it finds. */
const found = (filter: CallFilter, after: Key | undefined, limit: number): RawBuilder<unknown> => {
  const conditions = indexed(filter, after)
  const newest = (order: RawBuilder<unknown>, ...more: ReadonlyArray<RawBuilder<unknown> | undefined>) => sql`
    SELECT ${narrow} FROM calls c WHERE ${all([...more, ...conditions])} ${order} LIMIT ${limit}::integer`
  const numbered = (...more: ReadonlyArray<RawBuilder<unknown> | undefined>) =>
    newest(newestDayFirst, ...more, ...withinDays(filter, after))
  const dialed = (number: RawBuilder<unknown>) => sql`c.dialed_e164 = ${number}`
  const { did, number } = filter
  const newestOf = (...more: ReadonlyArray<RawBuilder<unknown>>) => {
    if (did === undefined) return more.length === 0 ? newest(newestFirst) : numbered(...more)
    if ("number" in did) return numbered(dialed(sql`${did.number}::text`), ...more)
    // Calls are found by the number that was dialed, and a DID may have had several.
    return sql`
      SELECT c.* FROM did_numbers n CROSS JOIN LATERAL (${numbered(dialed(sql`n.number`), ...more)}) c
      WHERE n.did_id = ${did.id}::uuid ${newestFirst} LIMIT ${limit}::integer`
  }
  if (number === undefined) return newestOf()
  return sql`
    SELECT c.* FROM (
      (${newestOf(isCaller(number))})
      UNION ALL
      (${newestOf(dialed(sql`${number}::text`), sql`c.caller_e164 IS DISTINCT FROM ${number}::text`)})
    ) c ${newestFirst} LIMIT ${limit}::integer`
}

/**
 * A page of calls. Filters that no index knows look through a bounded number of calls: a page that is not full
 * ends in a row which says where to go on, unless there is nothing more.
 */
export const callsStatement = ({ after, limit }: Page<Key>, filter: CallFilter) => {
  const conditions = looked(filter)
  if (conditions.length === 0) {
    return sql<CallListRow>`
      SELECT ${summaryColumns}, NULL::bigint AS resume_ms, NULL::uuid AS resume_id
      FROM (${found(filter, after, limit)}) p JOIN calls c ON c.id = p.id ${newestFirst}
    `.compile(query)
  }
  return sql<CallListRow>`
    WITH scanned AS MATERIALIZED (${found(filter, after, mostScanned)}), page AS MATERIALIZED (
      SELECT c.id FROM scanned c WHERE ${all(conditions)} ${newestFirst} LIMIT ${limit}::integer
    ), resume AS (
      SELECT started_at_ms AS resume_ms, id AS resume_id FROM scanned
      WHERE (SELECT count(*) FROM scanned) = ${mostScanned}::integer
        AND (SELECT count(*) FROM page) < ${limit}::integer
      ORDER BY started_at_ms, id LIMIT 1
    )
    SELECT ${summaryColumns}, r.resume_ms, r.resume_id
    FROM (SELECT c.* FROM page p JOIN calls c ON c.id = p.id) c FULL JOIN resume r ON false
    ORDER BY c.started_at_ms DESC NULLS LAST, c.id DESC NULLS LAST
  `.compile(query)
}
