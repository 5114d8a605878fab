// Tenants and their campaigns: kept by name.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import {
  campaignStatement,
  campaignsStatement,
  createCampaignStatement,
  createTenantStatement,
  deleteCampaignStatement,
  deleteTenantStatement,
  patchCampaignStatement,
  patchTenantStatement,
  tenantStatement,
  tenantsStatement,
} from "../../routing/tenants.ts"
import { AdminApi } from "./api/api.ts"
import { pageFor, pageFrom } from "./shaping.ts"
import { makeStore } from "./store.ts"

const keyOf = ({ id, name }: { readonly id: string; readonly name: string }) => [name, id] as const
const asItIs = <A>(row: A) => row

export const tenantsHandlers = HttpApiBuilder.group(
  AdminApi,
  "tenants",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    return handlers.handleAll({
      list: ({ query }) =>
        Effect.map(store.many(tenantsStatement(pageFor(query))), (rows) =>
          pageFrom(query, rows, keyOf, asItIs),
        ),
      get: ({ params }) => store.one("tenant", tenantStatement(params.id)),
      create: ({ payload }) =>
        store
          .write(createTenantStatement(payload.name, payload.default_agent ?? null))
          .pipe(Effect.flatMap(store.orMissing("tenant"))),
      update: ({ params, payload }) =>
        store.write(patchTenantStatement(params.id, payload)).pipe(Effect.flatMap(store.orMissing("tenant"))),
      delete: ({ params }) => store.remove("tenant", deleteTenantStatement(params.id)),
    })
  }),
)

export const campaignsHandlers = HttpApiBuilder.group(
  AdminApi,
  "campaigns",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    return handlers.handleAll({
      list: ({ query }) =>
        Effect.map(store.many(campaignsStatement(pageFor(query), query.tenant_id)), (rows) =>
          pageFrom(query, rows, keyOf, asItIs),
        ),
      get: ({ params }) => store.one("campaign", campaignStatement(params.id)),
      create: ({ payload: { active = true, agent_name = null, ...payload } }) =>
        store
          .write(createCampaignStatement({ ...payload, active, agent_name }))
          .pipe(Effect.flatMap(store.orMissing("campaign"))),
      update: ({ params, payload }) =>
        store
          .write(patchCampaignStatement(params.id, payload))
          .pipe(Effect.flatMap(store.orMissing("campaign"))),
      delete: ({ params }) => store.remove("campaign", deleteCampaignStatement(params.id)),
    })
  }),
)
