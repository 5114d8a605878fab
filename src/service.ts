// The service: settings in, layers together, server up, until it is told to stop.

import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cause, Effect, Exit, Layer } from "effect"
import { HttpServerError } from "effect/http"
import { banner } from "./banner.ts"
import { CallLog } from "./calls/call-log.ts"
import { TrunkDirectory } from "./carriers/trunk-directory.ts"
import { environment, Settings } from "./config.ts"
import { Backlog } from "./database/backlog.ts"
import { Cache } from "./database/cache.ts"
import { Database } from "./database/database.ts"
import { catchUpLayer } from "./dispatch/catch-up.ts"
import { InFlight } from "./dispatch/in-flight.ts"
import { Ledger } from "./dispatch/ledger.ts"
import { Fleet } from "./fleet/fleet.ts"
import { WorkerClient } from "./fleet/worker-client.ts"
import { Draining } from "./http/draining.ts"
import { RateLimit } from "./http/rate-limit.ts"
import { serverLayer } from "./http/server.ts"
import { LiveKit } from "./livekit/livekit.ts"
import { loadLayer } from "./load.ts"
import { loggingLayer } from "./logging.ts"
import { Routing } from "./routing/routing.ts"
import { Sessions } from "./sessions/sessions.ts"
import { watchLayer } from "./watch/watch.ts"
import { Keys } from "./webhook/keys.ts"

const logging = Layer.unwrap(Effect.map(Settings, loggingLayer))

const service = Layer.mergeAll(banner, watchLayer, catchUpLayer, LiveKit.preload).pipe(
  Layer.provideMerge(serverLayer),
  Layer.provideMerge(Layer.mergeAll(Draining.layer, InFlight.layer, RateLimit.layer, loadLayer)),
  Layer.provideMerge(Layer.mergeAll(Keys.layer, Ledger.layer, CallLog.layer, Sessions.layer)),
  Layer.provideMerge(Layer.mergeAll(TrunkDirectory.layer, Routing.layer, Fleet.layerNoDeps)),
  Layer.provideMerge(Layer.mergeAll(WorkerClient.layer, LiveKit.layer, Cache.layer, Backlog.layer)),
  Layer.provideMerge(Database.layer),
  Layer.provideMerge(logging),
  Layer.provideMerge(Settings.layer),
  Layer.provide(environment),
)

const messageOf = (error: unknown): string => {
  if (error instanceof HttpServerError.ServeError)
    return `The service cannot listen: ${messageOf(error.cause)} (HOST and PORT say where)`
  return error instanceof Error ? error.message : String(error)
}

// A start that fails is a person's business: one clear line each, and no stack.
const report = (cause: Cause.Cause<unknown>) => {
  for (const line of messageOf(Cause.squash(cause)).split("\n")) console.error(line)
}

/** Serves until a signal ends it, and the process with it. */
export const run = (): void => {
  // Whoever reads our log may go away; the calls must not go with it.
  process.stdout.on("error", () => {})
  process.stderr.on("error", () => {})
  Layer.launch(service).pipe(
    NodeRuntime.runMain({
      disableErrorReporting: true,
      teardown: (exit, onExit) => {
        const stopped = Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)
        if (!stopped) report(exit.cause)
        onExit(stopped ? 0 : 1)
      },
    }),
  )
}
