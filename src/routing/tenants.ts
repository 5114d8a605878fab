// The queries of tenants and campaigns.

import { sql } from "kysely"
import { all, assignments, type Key, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"

export interface TenantRow {
  readonly id: string
  readonly name: string
  readonly default_agent: string | null
  readonly created_at: Date
}

export interface CampaignRow {
  readonly id: string
  readonly tenant_id: string
  readonly name: string
  readonly agent_name: string | null
  readonly active: boolean
  readonly created_at: Date
}

/** What is to change: what is not named stays, and null clears. */
export interface TenantPatch {
  readonly name?: string
  readonly default_agent?: string | null
}

export interface CampaignPatch {
  readonly tenant_id?: string
  readonly name?: string
  readonly agent_name?: string | null
  readonly active?: boolean
}

const tenant = sql`id, name, default_agent, created_at`
const campaign = sql`id, tenant_id, name, agent_name, active, created_at`
const afterName = ([name, id]: Key) => sql`(name, id) > (${name}::text, ${id}::uuid)`

const text = (value: string | null | undefined) => (value === undefined ? undefined : sql`${value}::text`)
const uuid = (value: string | undefined) => (value === undefined ? undefined : sql`${value}::uuid`)

/** By name. */
export const tenantsStatement = ({ after, limit }: Page<Key>) =>
  sql<TenantRow>`
    SELECT ${tenant} FROM tenants WHERE ${all([where(after, afterName)])} ORDER BY name, id LIMIT ${limit}::integer
  `.compile(query)

export const tenantStatement = (id: string) =>
  sql<TenantRow>`SELECT ${tenant} FROM tenants WHERE id = ${id}::uuid`.compile(query)

export const createTenantStatement = (name: string, defaultAgent: string | null) =>
  sql<TenantRow>`
    INSERT INTO tenants (name, default_agent) VALUES (${name}::text, ${defaultAgent}::text) RETURNING ${tenant}
  `.compile(query)

export const patchTenantStatement = (id: string, patch: TenantPatch) => {
  const changes = assignments({ name: text(patch.name), default_agent: text(patch.default_agent) })
  if (changes.length === 0) return tenantStatement(id)
  return sql<TenantRow>`
    UPDATE tenants SET ${sql.join(changes)} WHERE id = ${id}::uuid RETURNING ${tenant}
  `.compile(query)
}

/** The database refuses it while something refers to it. */
export const deleteTenantStatement = (id: string) =>
  sql<{ id: string }>`DELETE FROM tenants WHERE id = ${id}::uuid RETURNING id`.compile(query)

/** By name, of one tenant or of all. */
export const campaignsStatement = ({ after, limit }: Page<Key>, tenantId: string | undefined) =>
  sql<CampaignRow>`
    SELECT ${campaign} FROM campaigns
    WHERE ${all([where(after, afterName), where(tenantId, (id) => sql`tenant_id = ${id}::uuid`)])}
    ORDER BY name, id LIMIT ${limit}::integer
  `.compile(query)

export const campaignStatement = (id: string) =>
  sql<CampaignRow>`SELECT ${campaign} FROM campaigns WHERE id = ${id}::uuid`.compile(query)

export const createCampaignStatement = (made: Omit<CampaignRow, "id" | "created_at">) =>
  sql<CampaignRow>`
    INSERT INTO campaigns (tenant_id, name, agent_name, active)
    VALUES (${made.tenant_id}::uuid, ${made.name}::text, ${made.agent_name}::text, ${made.active}::boolean)
    RETURNING ${campaign}
  `.compile(query)

export const patchCampaignStatement = (id: string, patch: CampaignPatch) => {
  const changes = assignments({
    tenant_id: uuid(patch.tenant_id),
    name: text(patch.name),
    agent_name: text(patch.agent_name),
    active: patch.active === undefined ? undefined : sql`${patch.active}::boolean`,
  })
  if (changes.length === 0) return campaignStatement(id)
  return sql<CampaignRow>`
    UPDATE campaigns SET ${sql.join(changes)} WHERE id = ${id}::uuid RETURNING ${campaign}
  `.compile(query)
}

/** The database refuses it while something refers to it. */
export const deleteCampaignStatement = (id: string) =>
  sql<{ id: string }>`DELETE FROM campaigns WHERE id = ${id}::uuid RETURNING id`.compile(query)
