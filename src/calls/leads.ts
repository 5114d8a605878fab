// The queries of leads.

import { sql } from "kysely"
import { all, atMicros, type Key, micros, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"

export interface LeadRow {
  readonly id: string
  readonly tenant_id: string | null
  readonly campaign_id: string
  readonly number: string
  readonly raw_number: string
  readonly name: string
  readonly status: string
  readonly last_call_at: Date | null
  readonly created_at: Date
  readonly created_micros: string
}

export interface LeadFilter {
  readonly campaign_id?: string
  readonly status?: string
  readonly number?: string
}

const lead = sql`id, tenant_id, campaign_id, number, raw_number, name, status, last_call_at, created_at,
  ${micros("created_at")} AS created_micros`

/** Newest first. */
export const leadsStatement = ({ after, limit }: Page<Key>, filter: LeadFilter) =>
  sql<LeadRow>`
    SELECT ${lead} FROM leads
    WHERE ${all([
      where(after, ([at, id]) => sql`(created_at, id) < (${atMicros(at)}, ${id}::uuid)`),
      where(filter.campaign_id, (id) => sql`campaign_id = ${id}::uuid`),
      where(filter.status, (status) => sql`status = ${status}::text`),
      where(filter.number, (number) => sql`number = ${number}::text`),
    ])}
    ORDER BY created_at DESC, id DESC LIMIT ${limit}::integer
  `.compile(query)

export const leadStatement = (id: string) =>
  sql<LeadRow>`SELECT ${lead} FROM leads WHERE id = ${id}::uuid`.compile(query)
