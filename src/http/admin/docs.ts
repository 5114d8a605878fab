// The OpenAPI document of the admin API, and a page to read it.

import { createHash } from "node:crypto"
import { Effect, type Layer, Scope } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { HttpApiScalar, OpenApi } from "effect/http-api"
import { AdminApi } from "./api/api.ts"

/** The document, as it is served. */
export const openApi = () => OpenApi.fromApi(AdminApi)

// Nothing of the page is to come from, or to be told to, anybody else.
const page = {
  withDefaultFonts: false,
  telemetry: false,
  hideModels: true,
  showDeveloperTools: "never",
  hideClientButton: true,
  favicon: "data:,",
  authentication: { preferredSecurityScheme: "bearer" },
}

/** Lets the page run the scripts it was sent with and no other, and reach nobody but this service. */
const policyFor = (html: string): string => {
  const hashes = Array.from(
    html.matchAll(/<script>(.*?)<\/script>/gs),
    ([, script = ""]) => `'sha256-${createHash("sha256").update(script).digest("base64")}'`,
  )
  return [
    "default-src 'none'",
    `script-src ${hashes.join(" ")}`,
    // Scalar adds its styles, with their icons, while it runs.
    "style-src 'unsafe-inline'",
    "img-src data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ")
}

const underPolicy = (response: HttpServerResponse.HttpServerResponse) =>
  response.body._tag === "Uint8Array"
    ? HttpServerResponse.setHeader(
        response,
        "content-security-policy",
        policyFor(new TextDecoder().decode(response.body.body)),
      )
    : response

/** `/openapi.json` and `/docs`, for everybody: they say nothing about this installation. */
export const docsRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const document = yield* Effect.cached(Effect.sync(() => HttpServerResponse.jsonUnsafe(openApi())))
    // Three megabytes of script: nobody who does not read the page needs to have it in memory.
    const rendered = yield* Effect.cached(
      Effect.flatMap(Scope.make(), (scope) =>
        HttpRouter.toHttpEffect(HttpApiScalar.layer(AdminApi, { path: "/docs", scalar: page })).pipe(
          Scope.provide(scope),
          Effect.flatten,
          Effect.map(underPolicy),
        ),
      ),
    )
    yield* router.add("GET", "/openapi.json", document)
    yield* router.add("GET", "/docs", Effect.orDie(rendered))
  }),
)
