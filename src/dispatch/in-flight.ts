// Work that belongs to the process, not to the request that asked for it: one run for each key at a time, which
// every duplicate meanwhile shares, and which goes on when the client hangs up.

import { Context, Deferred, Effect, Exit, FiberSet, Layer } from "effect"

/** Gives the answer to everyone who waits; the run may go on after it. */
export type Reply<A, E> = (answer: Exit.Exit<A, E>) => Effect.Effect<void>

export class InFlight extends Context.Service<
  InFlight,
  {
    /**
     * Starts `run` unless one under that key is under way, and waits for its reply; `shared` tells which.
     * The key is taken until the run has ended, however long after its reply.
     */
    readonly share: <A, E, R>(
      key: string,
      run: (reply: Reply<A, E>) => Effect.Effect<void, E, R>,
    ) => Effect.Effect<{ readonly value: A; readonly shared: boolean }, E, R>
    /** Completes when nothing is under way. */
    readonly idle: Effect.Effect<void>
  }
>()("switchhook/dispatch/InFlight") {
  static readonly layer = Layer.effect(
    InFlight,
    Effect.gen(function* () {
      const fibers = yield* FiberSet.make()
      const running = new Map<string, Deferred.Deferred<any, any>>()

      const share = <A, E, R>(key: string, run: (reply: Reply<A, E>) => Effect.Effect<void, E, R>) =>
        // From taking the key to starting the run nothing may interrupt, or the key would be taken for good.
        Effect.uninterruptibleMask((restore) => {
          const other = running.get(key) as Deferred.Deferred<A, E> | undefined
          if (other !== undefined) {
            return Effect.map(restore(Deferred.await(other)), (value) => ({ value, shared: true }))
          }
          const answer = Deferred.makeUnsafe<A, E>()
          running.set(key, answer)
          const toTheEnd = Effect.onExit(
            run((exit) => Effect.asVoid(Deferred.done(answer, exit))),
            (exit) =>
              Effect.suspend(() => {
                running.delete(key)
                return Exit.isFailure(exit)
                  ? Deferred.failCause(answer, exit.cause)
                  : Deferred.die(answer, noReply)
              }),
          )
          return FiberSet.run(fibers, toTheEnd).pipe(
            Effect.andThen(restore(Deferred.await(answer))),
            Effect.map((value) => ({ value, shared: false })),
          )
        })

      return InFlight.of({ share, idle: FiberSet.awaitEmpty(fibers) })
    }),
  )
}

// Completing what is complete already changes nothing, so this is seen only where a run forgot to reply.
const noReply = new Error("a run ended without a reply")
