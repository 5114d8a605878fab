// The one place where queries meet a connection.

import { Context, Deferred, Effect, Latch, Layer, Redacted, Schedule, type Scope } from "effect"
import type { Compilable, CompiledQuery } from "kysely"
import { sleepAwake } from "../clock.ts"
import { Settings, type SettingsShape } from "../config.ts"
import type { CommandEngine, Engine } from "./engine.ts"
import { type DatabaseError, DatabaseUnavailable, toDatabaseError } from "./errors.ts"
import { type MigrationFailed, migrate } from "./migrations.ts"

// Nobody waits longer than a second for a database that has gone away.
const pingMs = 600
const lookEveryMs = 50
const pingEvery = "250 millis"

type Query<A> = CompiledQuery<A> | Compilable<A>

/** The engine of the database that the settings name; whoever opens it closes it. */
export const openEngine = (database: SettingsShape["database"]): Effect.Effect<Engine, DatabaseUnavailable> =>
  Effect.tryPromise({
    // Only the driver that is used is loaded.
    try: async () =>
      database.kind === "postgres"
        ? (await import("./postgres.ts")).makePostgres(Redacted.value(database.url))
        : (await import("./embedded.ts")).makeEmbedded(database.dataDir),
    catch: (cause) => new DatabaseUnavailable({ cause }),
  })

/** The same for a command, which may reach an embedded database through the service that has it open. */
export const reachEngine = (
  database: SettingsShape["database"],
): Effect.Effect<CommandEngine, DatabaseUnavailable, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: async () =>
        database.kind === "postgres"
          ? (await import("./postgres.ts")).makePostgres(Redacted.value(database.url))
          : (await import("./embedded.ts")).reachEmbedded(database.dataDir),
      catch: (cause) => new DatabaseUnavailable({ cause }),
    }),
    (engine) => Effect.promise(() => engine.close().catch(() => {})),
  )

/**
 * Queries, one statement each. There is no interactive transaction on purpose: the embedded database has a
 * single connection, and a query that waited for a transaction which waits for it would hang for good.
 */
export class Database extends Context.Service<
  Database,
  {
    readonly kind: Engine["kind"]
    readonly place: string
    /** Runs one statement. */
    readonly run: <A>(query: Query<A>) => Effect.Effect<ReadonlyArray<A>, DatabaseError>
    /** Completes once the schema is up to date, however long the database takes to appear. */
    readonly migrated: Effect.Effect<void>
    /** False until then. */
    readonly reached: () => boolean
    /**
     * Why queries cannot work now, `undefined` where they can. From memory, at most a second old: anybody may
     * ask for our health, and nobody unsigned may reach the database.
     */
    readonly fault: () => string | undefined
    /**
     * Whether the database is away, asked at once, for somebody whose query has failed or takes long; where it is,
     * everybody else knows it from then on.
     */
    readonly isAway: Effect.Effect<boolean>
    /** Completes as soon as the database is known to be away. */
    readonly untilAway: Effect.Effect<void>
    /** Calls `onMessage` for every NOTIFY on the channel, `onLost` once when the line breaks. */
    readonly listen: (
      channel: string,
      onMessage: (payload: string) => void,
      onLost: () => void,
    ) => Effect.Effect<void, DatabaseError, Scope.Scope>
  }
>()("switchhook/database/Database") {
  /** On an engine that the caller made; closes it with the scope. */
  static readonly make = Effect.fnUntraced(function* (engine: Engine) {
    yield* Effect.addFinalizer(() => Effect.promise(() => engine.close().catch(() => {})))
    const ready = yield* Deferred.make<void>()
    let fault: string | undefined = "The schema is not up to date yet"
    let reached = false

    const away = yield* Latch.make()
    const failing = (error: { readonly message: string }) =>
      Effect.suspend(() => {
        const known = fault === error.message
        fault = error.message
        away.openUnsafe()
        return known ? Effect.void : Effect.logError("Database not usable, trying again", { why: fault })
      })

    const usable = Effect.suspend(() => {
      const back = fault !== undefined
      fault = undefined
      away.closeUnsafe()
      return back ? Effect.logInfo("Database usable") : Effect.void
    })

    const bringUpToDate = migrate(engine).pipe(
      Effect.tap((applied) =>
        applied.length === 0
          ? Effect.void
          : Effect.logInfo("Database migrated", { applied: applied.join(", ") }),
      ),
      Effect.tapError(failing),
    )

    let answers = 0
    const run = <A>(query: Query<A>) =>
      Effect.tryPromise({ try: () => engine.kysely.executeQuery(query), catch: toDatabaseError }).pipe(
        Effect.map((result) => {
          answers++
          return result.rows
        }),
      )

    // A database that answers others is slow, not away: to take it for away would let two replicas claim one call.
    const untilSilent = (silentMs = 0, seen = answers): Effect.Effect<void> =>
      silentMs >= pingMs
        ? Effect.void
        : Effect.flatMap(sleepAwake(lookEveryMs), () =>
            untilSilent(answers === seen ? silentMs + lookEveryMs : 0, answers),
          )

    const ping = Effect.tryPromise({
      try: (signal) => engine.ping(signal),
      catch: (cause) => new DatabaseUnavailable({ cause }),
    }).pipe(
      // A pause of our own says nothing of the database.
      Effect.raceFirst(
        Effect.andThen(
          Effect.suspend(() => untilSilent()),
          Effect.fail(new DatabaseUnavailable({ cause: `no answer within ${pingMs} ms` })),
        ),
      ),
    )

    const scope = yield* Effect.scope
    let asking: Deferred.Deferred<boolean> | undefined
    // Whoever asks may go before the answer comes; a ping that is broken off would break its connection, and with it
    // the next one's.
    /** Asks the database, once for everybody who wants to know at the same time; true where it is away. */
    const ask: Effect.Effect<boolean> = Effect.uninterruptibleMask((restore) => {
      if (asking !== undefined) return restore(Deferred.await(asking))
      const asked = Deferred.makeUnsafe<boolean>()
      asking = asked
      const known = Effect.ensuring(
        Effect.matchEffect(ping, { onFailure: failing, onSuccess: () => usable }),
        Effect.suspend(() => {
          asking = undefined
          return Deferred.succeed(asked, fault !== undefined)
        }),
      )
      return Effect.andThen(Effect.forkIn(Effect.interruptible(known), scope), restore(Deferred.await(asked)))
    })

    const watchForever = Effect.forever(Effect.andThen(ask, Effect.sleep(pingEvery)))

    const begin = Effect.suspend(() => {
      fault = undefined
      away.closeUnsafe()
      reached = true
      return Effect.andThen(Deferred.succeed(ready, undefined), Effect.forkScoped(watchForever))
    })
    // A database that is merely away comes back; a migration that it refuses at the start needs a person.
    yield* bringUpToDate.pipe(
      Effect.andThen(begin),
      Effect.catchTag("DatabaseUnavailable", () =>
        bringUpToDate.pipe(
          Effect.retry(Schedule.spaced("1 second")),
          Effect.andThen(begin),
          Effect.forkScoped,
        ),
      ),
    )

    return Database.of({
      kind: engine.kind,
      place: engine.place,
      run,
      migrated: Deferred.await(ready),
      reached: () => reached,
      fault: () => fault,
      isAway: Effect.suspend(() => (fault === undefined ? ask : Effect.succeed(true))),
      untilAway: away.await,
      listen: (channel, onMessage, onLost) =>
        Effect.acquireRelease(
          Effect.tryPromise({ try: () => engine.listen(channel, onMessage, onLost), catch: toDatabaseError }),
          (stop) => Effect.promise(() => stop().catch(() => {})),
        ).pipe(Effect.asVoid),
    })
  })

  /** On the database that the settings name. Fails where the schema cannot be brought up to date. */
  static readonly layer: Layer.Layer<Database, MigrationFailed | DatabaseUnavailable, Settings> =
    Layer.effect(
      Database,
      Effect.gen(function* () {
        const { database } = yield* Settings
        return yield* Database.make(yield* openEngine(database))
      }),
    )
}
