// The admin API with what it does.

import { Effect, Layer, Option } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { Settings } from "../../config.ts"
import { AdminApi } from "./api/api.ts"
import { callsHandlers } from "./calls.ts"
import { carriersHandlers } from "./carriers.ts"
import { didsHandlers } from "./dids.ts"
import { docsRoutes } from "./docs.ts"
import { answeringLayer, authorizationLayer } from "./guards.ts"
import { leadsHandlers } from "./leads.ts"
import { sessionsHandlers } from "./sessions.ts"
import { settingsHandlers } from "./settings.ts"
import { campaignsHandlers, tenantsHandlers } from "./tenants.ts"
import { workersHandlers } from "./workers.ts"

const handlers = Layer.mergeAll(
  settingsHandlers,
  workersHandlers,
  carriersHandlers,
  tenantsHandlers,
  campaignsHandlers,
  didsHandlers,
  callsHandlers,
  leadsHandlers,
  sessionsHandlers,
)

const api = HttpApiBuilder.layer(AdminApi).pipe(
  Layer.provide(handlers),
  Layer.provide(Layer.mergeAll(authorizationLayer, answeringLayer)),
)

// Without a token nobody could come in; and where there is nothing, nothing can be tried.
const apiWhereAllowed = Layer.unwrap(
  Effect.map(Settings, ({ adminToken, production }) =>
    production && Option.isNone(adminToken) ? Layer.empty : api,
  ),
)

/** `/api/v1/admin`, where there is an admin token, and its description. */
export const adminRoutes = Layer.mergeAll(apiWhereAllowed, docsRoutes)
