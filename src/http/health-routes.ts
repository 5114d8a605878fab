// What an orchestrator, a load balancer and Prometheus ask.

import { Effect, type Layer, Option } from "effect"
import { HttpRouter, HttpServerError, HttpServerResponse } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { Settings } from "../config.ts"
import { Backlog } from "../database/backlog.ts"
import { Database } from "../database/database.ts"
import { Fleet } from "../fleet/fleet.ts"
import { Load } from "../load.ts"
import { showBacklog, showBuild, showLoad, showWorkers } from "../metrics.ts"
import { runtime, version } from "../version.ts"
import { Keys } from "../webhook/keys.ts"
import { problem } from "./answers.ts"
import { Draining } from "./draining.ts"

type Needs = Settings | Database | Backlog | Fleet | Keys | Draining

// Where agents take the calls that no worker does, or that are not meant for one, the fleet is nobody's reason.
/** Every reason why this replica should get no calls now; none where it is ready. */
const reasons = Effect.gen(function* () {
  const found: Array<string> = []
  const draining = yield* Draining
  if (draining.begun()) found.push("shutting down")
  const database = yield* Database
  const fault = database.fault()
  if (fault !== undefined) {
    const { claims, dropped, stories } = (yield* Backlog).size()
    const kept = `${claims} claims and ${stories} events wait on disk`
    found.push(database.reached() ? `${fault}: calls go through, ${kept}, ${dropped} were given up` : fault)
  }
  const keys = yield* Keys
  if (keys.names.length === 0) found.push("No LiveKit API key is set")
  const { fallbackAgent, inboundTarget } = yield* Settings
  const fleet = yield* Fleet
  const workers = yield* fleet.view
  if (!fleet.known()) found.push("core_fleet was not read yet")
  else if (Option.isSome(fallbackAgent)) return found
  else if (workers.length === 0 && inboundTarget === "agent") return found
  else if (workers.length === 0) found.push("No fleet: the setting core_fleet is empty")
  else if (!workers.some((worker) => worker.up)) {
    const why = workers.map((worker) => `${worker.name}: ${worker.whyOut}`).join("; ")
    found.push(`No healthy fleet: ${why}`)
  }
  return found
})

// Shedding is said, and is no reason: were it one, the other replicas would get the load of this one, too.
const readiness = Effect.gen(function* () {
  const found = yield* reasons
  const { shed } = (yield* Load).view()
  return HttpServerResponse.jsonUnsafe(
    {
      status: found.length === 0 ? "ready" : "not ready",
      reasons: found,
      ...(shed.length === 0 ? {} : { shedding: shed }),
    },
    { status: found.length === 0 ? 200 : 503 },
  )
})

const metrics = Effect.gen(function* () {
  const fleet = yield* Fleet
  showWorkers(yield* fleet.view)
  showBuild(version, runtime)
  showBacklog((yield* Backlog).size())
  showLoad((yield* Load).view())
  const body = yield* PrometheusMetrics.format()
  return HttpServerResponse.text(body, { contentType: "text/plain; version=0.0.4; charset=utf-8" })
})

const isNotFound = (error: unknown) =>
  HttpServerError.isHttpServerError(error) && error.reason._tag === "RouteNotFound"

/** `/healthz`, `/readyz`, `/metrics`, and an answer for every path that is none of ours, or no path at all. */
export const healthRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | Needs> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const context = yield* Effect.context<Needs>()
    yield* router.add("GET", "/healthz", HttpServerResponse.jsonUnsafe({ status: "ok", version }))
    yield* router.add("GET", "/readyz", Effect.provideContext(readiness, context))
    yield* router.add("GET", "/metrics", Effect.provideContext(metrics, context))
    yield* router.addGlobalMiddleware(
      Effect.catchIf(isNotFound, () => Effect.succeed(problem(404, "There is nothing here"))),
    )
  }),
)
