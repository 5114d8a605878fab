// The queries of single DIDs.

import { type RawBuilder, sql } from "kysely"
import { all, assignments, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"
import type { NumberType } from "./number-type.ts"

export interface DidRow {
  readonly id: string
  readonly number: string
  readonly raw_number: string
  readonly type: NumberType | null
  readonly carrier_id: string | null
  readonly position: number
  readonly tenant_id: string | null
  readonly campaign_id: string | null
  readonly target: "fleet" | "agent" | null
  readonly created_at: Date
}

/** A number as it is stored beside the form in which it was given. */
export interface GivenNumber {
  readonly e164: string
  readonly raw: string
  readonly type: NumberType | null
}

/** Whose a number is, and who answers it. */
export interface DidOwners {
  readonly carrier_id?: string | null
  readonly tenant_id?: string | null
  readonly campaign_id?: string | null
  readonly target?: "fleet" | "agent" | null
}

export interface DidFilter {
  readonly number?: string
  readonly carrier_id?: string
  readonly tenant_id?: string
  readonly campaign_id?: string
}

const did = sql`d.id, d.number, d.raw_number, d.type, d.carrier_id, d.position, d.tenant_id, d.campaign_id,
  d.target, d.created_at`

const uuid = (value: string | null | undefined) =>
  value === undefined ? undefined : sql<string | null>`${value}::uuid`
const text = (value: string | null | undefined) => (value === undefined ? undefined : sql`${value}::text`)

/** Behind the others of its carrier. */
const lastIn = (carrier: RawBuilder<unknown>) =>
  sql<number>`coalesce((SELECT max(o.position) + 1 FROM dids o WHERE o.carrier_id = ${carrier}), 0)`

/** A number cannot belong to one tenant and to the campaign of another. */
const belongsTogether = (tenant: RawBuilder<unknown>, campaign: RawBuilder<unknown>) =>
  sql<boolean>`(${tenant} IS NULL OR ${campaign} IS NULL
    OR EXISTS (SELECT 1 FROM campaigns m WHERE m.id = ${campaign} AND m.tenant_id = ${tenant}))`

const is = (column: string, id: string | undefined) =>
  where(id, (value) => sql`${sql.raw(`d.${column}`)} = ${value}::uuid`)

/** By number. */
export const didsStatement = ({ after, limit }: Page<string>, filter: DidFilter) =>
  sql<DidRow>`
    SELECT ${did} FROM dids d
    WHERE ${all([
      where(after, (number) => sql`d.number > ${number}::text`),
      where(filter.number, (number) => sql`d.number = ${number}::text`),
      is("carrier_id", filter.carrier_id),
      is("tenant_id", filter.tenant_id),
      is("campaign_id", filter.campaign_id),
    ])}
    ORDER BY d.number LIMIT ${limit}::integer
  `.compile(query)

/** The DID of that number, E.164. */
export const didNumberedStatement = (e164: string) =>
  sql<DidRow>`SELECT ${did} FROM dids d WHERE d.number = ${e164}::text`.compile(query)

export const didStatement = (id: string) =>
  sql<DidRow>`SELECT ${did} FROM dids d WHERE d.id = ${id}::uuid`.compile(query)

/** Returns no row where the campaign is not one of the tenant's. */
export const createDidStatement = ({ e164, raw, type }: GivenNumber, owners: DidOwners) => {
  const carrier = sql`${owners.carrier_id ?? null}::uuid`
  const tenant = sql`${owners.tenant_id ?? null}::uuid`
  const campaign = sql`${owners.campaign_id ?? null}::uuid`
  return sql<DidRow>`
    INSERT INTO dids AS d (number, raw_number, type, carrier_id, position, tenant_id, campaign_id, target)
    SELECT ${e164}::text, ${raw}::text, ${type}::text, ${carrier}, ${lastIn(carrier)}, ${tenant}, ${campaign},
      ${owners.target ?? null}::text
    WHERE ${belongsTogether(tenant, campaign)}
    RETURNING ${did}
  `.compile(query)
}

/** Returns no row where there is no such DID, or the campaign is not one of the tenant's. */
export const patchDidStatement = (id: string, number: GivenNumber | undefined, owners: DidOwners) => {
  const carrier = uuid(owners.carrier_id)
  const changes = assignments({
    number: text(number?.e164),
    raw_number: text(number?.raw),
    // What Twilio has said about the same number stays.
    type: number && sql`CASE WHEN d.number = ${number.e164}::text THEN d.type ELSE ${number.type}::text END`,
    carrier_id: carrier,
    position:
      carrier &&
      sql`CASE WHEN d.carrier_id IS NOT DISTINCT FROM ${carrier} THEN d.position ELSE ${lastIn(carrier)} END`,
    tenant_id: uuid(owners.tenant_id),
    campaign_id: uuid(owners.campaign_id),
    target: text(owners.target),
  })
  if (changes.length === 0) return didStatement(id)
  const tenant = uuid(owners.tenant_id) ?? sql`d.tenant_id`
  const campaign = uuid(owners.campaign_id) ?? sql`d.campaign_id`
  return sql<DidRow>`
    UPDATE dids d SET ${sql.join(changes)}
    WHERE d.id = ${id}::uuid AND ${belongsTogether(tenant, campaign)}
    RETURNING ${did}
  `.compile(query)
}

export const deleteDidStatement = (id: string) =>
  sql<{ id: string }>`DELETE FROM dids d WHERE d.id = ${id}::uuid RETURNING d.id`.compile(query)
