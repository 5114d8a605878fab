// Tenants and their campaigns.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema, OpenApi } from "effect/http-api"
import { cursorOf, Deleted, Id, IdInput, Limit, Name, NameKey, pageOf, Time } from "./common.ts"
import { Conflict } from "./problems.ts"

const Tenant = Schema.Struct({
  id: Id,
  name: Schema.String,
  default_agent: Schema.NullOr(Schema.String),
  created_at: Time,
}).annotate({ identifier: "Tenant", description: "A tenant" })

const Campaign = Schema.Struct({
  id: Id,
  tenant_id: Id,
  name: Schema.String,
  agent_name: Schema.NullOr(Schema.String),
  active: Schema.Boolean,
  created_at: Time,
}).annotate({ identifier: "Campaign", description: "A campaign" })

const Cursor = cursorOf(NameKey)
const params = { id: IdInput }
const Agent = Schema.optionalKey(Schema.NullOr(Name))

export const TenantsGroup = HttpApiGroup.make("tenants")
  .add(
    HttpApiEndpoint.get("list", "/tenants", {
      query: { limit: Limit, cursor: Schema.optionalKey(Cursor) },
      success: pageOf("TenantPage", Tenant, Cursor),
    }).annotate(OpenApi.Summary, "Tenants by name"),
    HttpApiEndpoint.get("get", "/tenants/:id", { params, success: Tenant }).annotate(
      OpenApi.Summary,
      "One tenant",
    ),
    HttpApiEndpoint.post("create", "/tenants", {
      payload: Schema.Struct({ name: Name, default_agent: Agent }).annotate({ identifier: "NewTenant" }),
      success: Tenant.pipe(HttpApiSchema.status(201)),
      error: Conflict,
    }).annotate(OpenApi.Summary, "Make a tenant"),
    HttpApiEndpoint.patch("update", "/tenants/:id", {
      params,
      payload: Schema.Struct({ name: Schema.optionalKey(Name), default_agent: Agent }).annotate({
        identifier: "TenantPatch",
      }),
      success: Tenant,
      error: Conflict,
    }).annotate(OpenApi.Summary, "Change a tenant"),
    HttpApiEndpoint.delete("delete", "/tenants/:id", { params, success: Deleted, error: Conflict }).annotate(
      OpenApi.Summary,
      "Delete a tenant that nothing refers to",
    ),
  )
  .annotate(OpenApi.Description, "Whom the numbers belong to.")

export const CampaignsGroup = HttpApiGroup.make("campaigns")
  .add(
    HttpApiEndpoint.get("list", "/campaigns", {
      query: { limit: Limit, cursor: Schema.optionalKey(Cursor), tenant_id: Schema.optionalKey(IdInput) },
      success: pageOf("CampaignPage", Campaign, Cursor),
    }).annotate(OpenApi.Summary, "Campaigns by name"),
    HttpApiEndpoint.get("get", "/campaigns/:id", { params, success: Campaign }).annotate(
      OpenApi.Summary,
      "One campaign",
    ),
    HttpApiEndpoint.post("create", "/campaigns", {
      payload: Schema.Struct({
        tenant_id: IdInput,
        name: Name,
        agent_name: Agent,
        active: Schema.optionalKey(Schema.Boolean),
      }).annotate({ identifier: "NewCampaign" }),
      success: Campaign.pipe(HttpApiSchema.status(201)),
      error: Conflict,
    }).annotate(OpenApi.Summary, "Make a campaign of a tenant"),
    HttpApiEndpoint.patch("update", "/campaigns/:id", {
      params,
      payload: Schema.Struct({
        tenant_id: Schema.optionalKey(IdInput),
        name: Schema.optionalKey(Name),
        agent_name: Agent,
        active: Schema.optionalKey(Schema.Boolean),
      }).annotate({ identifier: "CampaignPatch" }),
      success: Campaign,
      error: Conflict,
    }).annotate(OpenApi.Summary, "Change a campaign"),
    HttpApiEndpoint.delete("delete", "/campaigns/:id", {
      params,
      success: Deleted,
      error: Conflict,
    }).annotate(OpenApi.Summary, "Delete a campaign that nothing refers to"),
  )
  .annotate(OpenApi.Description, "What the numbers of a tenant are for; each says which agent answers.")
