// The OpenAPI document of the admin API, and a page to read it.

import { Effect, type Layer, Scope } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { HttpApiScalar, OpenApi } from "effect/http-api"
import { AdminApi } from "./api/api.ts"

/** The document, as it is served. */
export const openApi = () => OpenApi.fromApi(AdminApi)

// Nothing of the page is to come from, or to be told to, anybody else.
const page = { withDefaultFonts: false, telemetry: false, hideModels: true }

/** `/openapi.json` and `/docs`, for everybody: they say nothing about this installation. */
export const docsRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const document = yield* Effect.cached(Effect.sync(() => HttpServerResponse.jsonUnsafe(openApi())))
    // Three megabytes of script: nobody who does not read the page needs to have it in memory.
    const rendered = yield* Effect.cached(
      Effect.flatMap(Scope.make(), (scope) =>
        HttpRouter.toHttpEffect(HttpApiScalar.layer(AdminApi, { path: "/docs", scalar: page })).pipe(
          Scope.provide(scope),
        ),
      ),
    )
    yield* router.add("GET", "/openapi.json", document)
    yield* router.add("GET", "/docs", Effect.orDie(Effect.flatten(rendered)))
  }),
)
