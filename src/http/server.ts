// The HTTP server with all routes.

import { createServer } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Effect, Layer } from "effect"
import { HttpRouter } from "effect/http"
import { Settings } from "../config.ts"
import { adminRoutes } from "./admin/admin-routes.ts"
import { Draining } from "./draining.ts"
import { healthRoutes } from "./health-routes.ts"
import { testRoutes } from "./test-routes.ts"
import { webhookRoutes } from "./webhook-routes.ts"

// LiveKit sends an event at once; whoever needs longer for headers or body is not LiveKit. Its Go client, and
// most proxies, keep an idle connection for up to 90 s: closed by us first, it would cost an event a retry.
const limits = {
  headersTimeout: 5_000,
  requestTimeout: 10_000,
  connectionsCheckingInterval: 1_000,
  keepAliveTimeout: 95_000,
}

const listener = Layer.unwrap(
  Effect.map(Settings, ({ host, port }) =>
    NodeHttpServer.layer(() => createServer(limits), { host, port, gracefulShutdownTimeout: "3 seconds" }),
  ),
)

// What the admin API lets an id be: 512 characters of three bytes, each as %XX.
const routerConfig = { maxParamLength: 512 * 9 }

const routes = Layer.mergeAll(webhookRoutes, testRoutes, adminRoutes, healthRoutes)

/** Serves until its scope closes: first not ready, then nothing in flight, then closed. */
export const serverLayer = Draining.onShutdown.pipe(
  Layer.provideMerge(HttpRouter.serve(routes, { routerConfig, disableLogger: true, disableListenLog: true })),
  Layer.provideMerge(listener),
)
