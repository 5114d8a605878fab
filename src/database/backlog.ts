// What the database could not take when it came: kept in memory, in order, and written when it is back.

import { Context, Effect, Layer, Option } from "effect"
import { Database } from "./database.ts"
import { type DatabaseError, DatabaseUnavailable } from "./errors.ts"

interface Entry {
  readonly what: string
  readonly names: ReadonlyArray<string>
  readonly write: Effect.Effect<unknown, DatabaseError>
}

// Whoever sends us an event waits for the answer, and LiveKit holds the room's next events back meanwhile.
const patience = "1 second"
const tryAgainAfter = "500 millis"
const flushFor = "3 seconds"

/** A few minutes of a busy system; what is beyond tells a story, and the oldest of it goes first. */
const mostKept = 10_000

export class Backlog extends Context.Service<
  Backlog,
  {
    /**
     * Writes now, and returns what came of it; `undefined` where the database is away and the write is kept for
     * later, so it must be one that may be repeated. `what` names it in the log. Fails where the database was never
     * reached, unless `always` is set, or refuses the write.
     */
    readonly write: <A, R>(
      what: string,
      write: Effect.Effect<A, DatabaseError, R>,
      options?: { readonly always: boolean; readonly names?: ReadonlyArray<string> },
    ) => Effect.Effect<A | undefined, DatabaseError, R>
    /** Keeps a write for later, without trying it now. */
    readonly keep: <R>(
      what: string,
      write: Effect.Effect<unknown, DatabaseError, R>,
      names?: ReadonlyArray<string>,
    ) => Effect.Effect<undefined, never, R>
    /** Whether a write waits that goes by one of these names, and must not be overtaken. */
    readonly holds: (names: ReadonlyArray<string>) => boolean
    /** How many writes wait. */
    readonly size: () => number
  }
>()("switchhook/database/Backlog") {
  static readonly layer = Layer.effect(
    Backlog,
    Effect.gen(function* () {
      const database = yield* Database
      const waiting: Array<Entry> = []
      let dropped = 0

      const enqueue = (entry: Entry) =>
        Effect.suspend(() => {
          waiting.push(entry)
          if (waiting.length <= mostKept) return Effect.void
          waiting.shift()
          dropped++
          return dropped === 1
            ? Effect.logError("The database is away for too long: the oldest unwritten events are given up")
            : Effect.void
        })

      const writeFirst = Effect.suspend(() => {
        const first = waiting[0]
        if (first === undefined) return Effect.succeed(false)
        return first.write.pipe(
          Effect.matchEffect({
            onFailure: (error) =>
              error._tag === "DatabaseUnavailable"
                ? Effect.succeed(false)
                : Effect.as(
                    Effect.logError("A kept event was refused", { event: first.what, why: error.message }),
                    true,
                  ),
            onSuccess: () => Effect.succeed(true),
          }),
          Effect.tap((done) =>
            Effect.sync(() => {
              if (done && waiting[0] === first) waiting.shift()
            }),
          ),
        )
      })
      const drain = Effect.gen(function* () {
        const begun = waiting.length
        yield* Effect.repeat(writeFirst, { while: (done) => done && waiting.length > 0 })
        if (begun > 0 && waiting.length === 0) {
          yield* Effect.logInfo("Kept events are written", { written: begun, given_up: dropped })
          dropped = 0
        }
      })
      yield* database.migrated.pipe(
        Effect.andThen(Effect.forever(Effect.andThen(drain, Effect.sleep(tryAgainAfter)))),
        Effect.forkScoped,
      )
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() =>
          waiting.length === 0 ? Effect.void : Effect.timeoutOption(drain, flushFor),
        ).pipe(
          Effect.andThen(
            Effect.suspend(() =>
              waiting.length === 0
                ? Effect.void
                : Effect.logError("Stopped with events unwritten", { events: waiting.length }),
            ),
          ),
        ),
      )

      const write = Effect.fnUntraced(function* <A, R>(
        what: string,
        effect: Effect.Effect<A, DatabaseError, R>,
        options?: { readonly always: boolean; readonly names?: ReadonlyArray<string> },
      ): Effect.fn.Return<A | undefined, DatabaseError, R> {
        const context = yield* Effect.context<R>()
        const entry = { what, names: options?.names ?? [], write: Effect.provideContext(effect, context) }
        const mayKeep = database.reached() || options?.always === true
        if (!mayKeep) return yield* new DatabaseUnavailable({ cause: "it was never reached" })
        // Nobody waits for a database that others are waiting for already.
        if (waiting.length > 0 || !database.reached()) {
          yield* enqueue(entry)
          return undefined
        }
        const written = yield* effect.pipe(
          Effect.timeoutOption(patience),
          Effect.catchTag("DatabaseUnavailable", () => Effect.succeed(Option.none<A>())),
        )
        if (Option.isSome(written)) return written.value
        yield* enqueue(entry)
        yield* Effect.logWarning("Database away: events are kept in memory", { event: what })
        return undefined
      })

      const keep = Effect.fnUntraced(function* <R>(
        what: string,
        effect: Effect.Effect<unknown, DatabaseError, R>,
        names: ReadonlyArray<string> = [],
      ): Effect.fn.Return<undefined, never, R> {
        const context = yield* Effect.context<R>()
        yield* enqueue({ what, names, write: Effect.provideContext(effect, context) })
        return undefined
      })

      const holds = (names: ReadonlyArray<string>) =>
        waiting.some((entry) => entry.names.some((name) => name !== "" && names.includes(name)))

      return Backlog.of({ write, keep, holds, size: () => waiting.length })
    }),
  )
}
