// Tenants and their campaigns.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { cursorOf, Id, IdInput, Limit, Name, NameKey, pageOf, Time } from "./common.ts"
import { Conflict } from "./problems.ts"

const Tenant = Schema.Struct({
  id: Id,
  name: Schema.String,
  default_agent: Schema.NullOr(Schema.String),
  created_at: Time,
})

const Campaign = Schema.Struct({
  id: Id,
  tenant_id: Id,
  name: Schema.String,
  agent_name: Schema.NullOr(Schema.String),
  active: Schema.Boolean,
  created_at: Time,
})

const Cursor = cursorOf(NameKey)
const params = { id: IdInput }
const Agent = Schema.optionalKey(Schema.NullOr(Name))
const Deleted = Schema.Struct({ id: Id })

export const TenantsGroup = HttpApiGroup.make("tenants").add(
  HttpApiEndpoint.get("list", "/tenants", {
    query: { limit: Limit, cursor: Schema.optionalKey(Cursor) },
    success: pageOf(Tenant, Cursor),
  }),
  HttpApiEndpoint.get("get", "/tenants/:id", { params, success: Tenant }),
  HttpApiEndpoint.post("create", "/tenants", {
    payload: Schema.Struct({ name: Name, default_agent: Agent }),
    success: Tenant.pipe(HttpApiSchema.status(201)),
    error: Conflict,
  }),
  HttpApiEndpoint.patch("update", "/tenants/:id", {
    params,
    payload: Schema.Struct({ name: Schema.optionalKey(Name), default_agent: Agent }),
    success: Tenant,
    error: Conflict,
  }),
  HttpApiEndpoint.delete("delete", "/tenants/:id", { params, success: Deleted, error: Conflict }),
)

export const CampaignsGroup = HttpApiGroup.make("campaigns").add(
  HttpApiEndpoint.get("list", "/campaigns", {
    query: { limit: Limit, cursor: Schema.optionalKey(Cursor), tenant_id: Schema.optionalKey(IdInput) },
    success: pageOf(Campaign, Cursor),
  }),
  HttpApiEndpoint.get("get", "/campaigns/:id", { params, success: Campaign }),
  HttpApiEndpoint.post("create", "/campaigns", {
    payload: Schema.Struct({
      tenant_id: IdInput,
      name: Name,
      agent_name: Agent,
      active: Schema.optionalKey(Schema.Boolean),
    }),
    success: Campaign.pipe(HttpApiSchema.status(201)),
    error: Conflict,
  }),
  HttpApiEndpoint.patch("update", "/campaigns/:id", {
    params,
    payload: Schema.Struct({
      tenant_id: Schema.optionalKey(IdInput),
      name: Schema.optionalKey(Name),
      agent_name: Agent,
      active: Schema.optionalKey(Schema.Boolean),
    }),
    success: Campaign,
    error: Conflict,
  }),
  HttpApiEndpoint.delete("delete", "/campaigns/:id", { params, success: Deleted, error: Conflict }),
)
