// The way out: not ready at once, what is in flight is finished, and only then the server closes.

import { Context, Effect, Layer } from "effect"
import { InFlight } from "../dispatch/in-flight.ts"

// A relay takes 10 s at most; whatever is not stored after that is stored by the next delivery.
const patience = "12 seconds"

export class Draining extends Context.Service<
  Draining,
  {
    readonly begun: () => boolean
    readonly begin: Effect.Effect<void>
  }
>()("switchhook/http/Draining") {
  static readonly layer = Layer.sync(Draining, () => {
    let begun = false
    return Draining.of({
      begun: () => begun,
      begin: Effect.sync(() => {
        begun = true
      }),
    })
  })

  /** To be built last, so that it is torn down first: the server still listens while calls are finished. */
  static readonly onShutdown = Layer.effectDiscard(
    Effect.gen(function* () {
      const draining = yield* Draining
      const inFlight = yield* InFlight
      yield* Effect.addFinalizer(() =>
        draining.begin.pipe(
          Effect.andThen(Effect.logInfo("Shutting down: finishing what is in flight")),
          Effect.andThen(Effect.timeoutOption(inFlight.idle, patience)),
        ),
      )
    }),
  )
}
