// The admin API with what it does, its description and its page: all that is loaded with the first request for it.

import { Effect, Layer, Option } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { HttpApi, HttpApiBuilder } from "effect/http-api"
import { Settings } from "../../config.ts"
import { problem } from "../answers.ts"
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

const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] as const

const methodNotAllowed = (allowed: ReadonlySet<string>) => {
  const allow = methods.filter((method) => allowed.has(method)).join(", ")
  return HttpServerResponse.setHeader(problem(405, `Only ${allow}`), "Allow", allow)
}

/** Every path of the API answers the methods that it does not have with 405. */
const otherMethods = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const known = new Map<string, Set<string>>()
    HttpApi.reflect(AdminApi, {
      onGroup: () => {},
      onEndpoint: ({ endpoint: { method, path } }) =>
        known.set(path, (known.get(path) ?? new Set()).add(method)),
    })
    for (const [path, allowed] of known)
      for (const method of methods.filter((other) => !allowed.has(other)))
        yield* router.add(method, path as HttpRouter.PathInput, methodNotAllowed(allowed))
  }),
)

// Without a token nobody could come in; and where there is nothing, nothing can be tried.
const apiWhereAllowed = Layer.unwrap(
  Effect.map(Settings, ({ adminToken, production }) =>
    production && Option.isNone(adminToken) ? Layer.empty : Layer.merge(api, otherMethods),
  ),
)

/** `/api/v1/admin`, where there is an admin token, and its description. */
export const served = Layer.mergeAll(apiWhereAllowed, docsRoutes)
