// The admin API's place among the routes: what stands there is loaded with the first request for it.

import { Effect, Layer, Scope } from "effect"
import { HttpRouter, type HttpServerError } from "effect/http"
import type { served } from "./served.ts"

type Needs =
  typeof served extends Layer.Layer<never, never, infer R> ? Exclude<R, HttpRouter.HttpRouter> : never

/** Where a path has no route in there either, the router of the service says so. */
type NotFound = HttpRouter.Request<"Error", HttpServerError.HttpServerError>

// By their pieces, since the router of the service bounds the length of each.
const places = ["/docs", "/openapi.json", "/api/v1/admin/:list", "/api/v1/admin/:list/:id/*"] as const

const load = Effect.promise(() => import("./served.ts")).pipe(
  Effect.flatMap(({ served }) => HttpRouter.toHttpEffect(served)),
  Effect.provideService(HttpRouter.RouterConfig, { maxParamLength: Number.MAX_SAFE_INTEGER }),
  // By that of the start it would get the router that it stands in.
  Effect.provideServiceEffect(Layer.CurrentMemoMap, Layer.makeMemoMap),
)

/** Keeps what no call needs out of the start, and out of the memory of whoever never asks for it. */
export const adminRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | NotFound | Needs> =
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const context = yield* Effect.context<Needs>()
      const scope = yield* Effect.scope
      // Whoever comes first may hang up, and nothing of that request may stay behind in the routes.
      const loaded = yield* Effect.cached(
        Effect.uninterruptible(Effect.setContext(Scope.provide(load, scope), context)),
      )
      for (const place of places) yield* router.add("*", place, Effect.flatten(loaded))
    }),
  )
