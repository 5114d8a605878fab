// The HTTP server with all routes.

import { createServer } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Effect, Layer } from "effect"
import { HttpRouter } from "effect/http"
import { Settings } from "../config.ts"
import { countRefused } from "../metrics.ts"
import { acceptMany, shareable } from "./accepting.ts"
import { adminRoutes } from "./admin/admin-routes.ts"
import { limitConnections } from "./connections.ts"
import { Draining } from "./draining.ts"
import { healthRoutes } from "./health-routes.ts"
import { answerMalformed, closeStragglers } from "./malformed.ts"
import { sparingly } from "./sparingly.ts"
import { makeTake, takeFirst } from "./straight.ts"
import { testRoutes } from "./test-routes.ts"
import { straightWebhooks, webhookRoutes } from "./webhook-routes.ts"
import { wellFormedOnly } from "./well-formed.ts"

const warnOfConnections = sparingly("Connection refused")

const listener = Layer.unwrap(
  Effect.gen(function* () {
    const settings = yield* Settings
    const { host, limits, port } = settings
    const where = yield* shareable(host, port)
    const run = Effect.runForkWith(yield* Effect.context<never>())
    const take = yield* makeTake(straightWebhooks)
    const evaluate = () => {
      const server = createServer({
        headersTimeout: limits.headersTimeoutMs,
        requestTimeout: limits.requestTimeoutMs,
        connectionsCheckingInterval: Math.min(1_000, limits.headersTimeoutMs / 4),
        keepAliveTimeout: limits.keepAliveMs,
        maxHeaderSize: limits.headersSize,
        requireHostHeader: false,
        // A connection that is upgraded has no more time limits, and its body would be none of the request.
        shouldUpgradeCallback: () => false,
      })
      // One more, so that one too many is seen where the parser drops what is beyond.
      server.maxHeadersCount = limits.headers + 1
      answerMalformed(server, countRefused)
      if (process.versions["deno"] !== undefined) closeStragglers(server, limits.requestTimeoutMs)
      limitConnections(server, settings, (limit) => {
        countRefused(limit)
        run(warnOfConnections({ limit }))
      })
      acceptMany(server, where)
      takeFirst(server, take)
      return server
    }
    return NodeHttpServer.layer(evaluate, { ...where, gracefulShutdownTimeout: "3 seconds" })
  }),
)

// What the admin API lets an id be: 512 characters of three bytes, each as %XX.
const routerConfig = { maxParamLength: 512 * 9 }

const routes = Layer.mergeAll(webhookRoutes, testRoutes, adminRoutes, healthRoutes, wellFormedOnly)

/** Serves until its scope closes: first not ready, then nothing in flight, then closed. */
export const serverLayer = Draining.onShutdown.pipe(
  Layer.provideMerge(HttpRouter.serve(routes, { routerConfig, disableLogger: true, disableListenLog: true })),
  Layer.provideMerge(listener),
)
