// The one place where queries meet a connection.

import { Context, Deferred, Effect, Layer, Redacted, Schedule, type Scope } from "effect"
import type { Compilable, CompiledQuery } from "kysely"
import { monotonicMs, sleepAwake, theClock } from "../clock.ts"
import { Settings, type SettingsShape } from "../config.ts"
import type { CommandEngine, Engine } from "./engine.ts"
import { type DatabaseError, DatabaseUnavailable, toDatabaseError } from "./errors.ts"
import { type MigrationFailed, migrate } from "./migrations.ts"

// Nobody waits longer than a second for a database that has gone away.
const pingMs = 600
const lookEveryMs = 50
// Whoever is not answered for so long while others are has a connection that leads nowhere, and tries another.
const longestPingMs = 3_000
const pingEvery = "250 millis"
const hurryEvery = "250 millis"

// Made once: an error takes longer to make than most statements to send.
const goneAway = new DatabaseUnavailable({ cause: "it has gone away" })
const tooSlow = new DatabaseUnavailable({ cause: "it is there, and does not answer" })

/** Somebody whose statement is under way, and who will do without its answer. */
interface Waiting {
  readonly untilMs: number
  readonly giveUp: (error: DatabaseUnavailable) => void
}

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
    /**
     * The same for somebody who can do without the database: fails as soon as it is known to be away, or has not
     * answered until that time (ms of the monotonic clock), whatever then becomes of the statement.
     */
    readonly runUntil: <A>(query: Query<A>, untilMs: number) => Effect.Effect<ReadonlyArray<A>, DatabaseError>
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

    const waiting = new Set<Waiting>()
    const giveUp = (error: DatabaseUnavailable, isDue: (one: Waiting) => boolean) => {
      for (const one of waiting) if (isDue(one)) one.giveUp(error)
    }
    const failing = (error: { readonly message: string }) =>
      Effect.suspend(() => {
        const known = fault === error.message
        fault = error.message
        giveUp(goneAway, () => true)
        return known ? Effect.void : Effect.logError("Database not usable, trying again", { why: fault })
      })

    const usable = Effect.suspend(() => {
      const back = fault !== undefined
      fault = undefined
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
    const execute = async <A>(query: Query<A>): Promise<ReadonlyArray<A>> => {
      const rows = await engine.run("compile" in query ? query.compile() : query)
      answers++
      return rows
    }
    const run = <A>(query: Query<A>) =>
      Effect.tryPromise({ try: () => execute(query), catch: toDatabaseError })

    const clock = yield* theClock
    const runUntil = <A>(query: Query<A>, untilMs: number) =>
      Effect.callback<ReadonlyArray<A>, DatabaseError>((resume) => {
        if (fault !== undefined) return resume(Effect.fail(goneAway))
        const end = (ended: Effect.Effect<ReadonlyArray<A>, DatabaseError>) => {
          if (waiting.delete(one)) resume(ended)
        }
        const one: Waiting = { untilMs, giveUp: (error) => end(Effect.fail(error)) }
        waiting.add(one)
        execute(query).then(
          (rows) => end(Effect.succeed(rows)),
          (error) => end(Effect.fail(toDatabaseError(error))),
        )
        return Effect.sync(() => waiting.delete(one))
      })
    const hurry = Effect.sync(() => {
      const now = monotonicMs(clock)
      giveUp(tooSlow, ({ untilMs }) => untilMs <= now)
    })
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(hurryEvery), hurry)))

    /**
     * Fails once the database has answered nobody for so long. One that answers others is slow, not away: to take it for
     * away would let two replicas claim one call. A pause of our own says nothing of it.
     */
    const untilSilent = (
      waitedMs = 0,
      silentMs = 0,
      seen = answers,
    ): Effect.Effect<void, DatabaseUnavailable> => {
      if (silentMs >= pingMs)
        return Effect.fail(new DatabaseUnavailable({ cause: `no answer within ${pingMs} ms` }))
      if (waitedMs >= longestPingMs) return Effect.void
      return Effect.flatMap(sleepAwake(lookEveryMs), () =>
        untilSilent(waitedMs + lookEveryMs, answers === seen ? silentMs + lookEveryMs : 0, answers),
      )
    }

    const ping = Effect.tryPromise({
      try: (signal) => engine.ping(signal),
      catch: (cause) => new DatabaseUnavailable({ cause }),
    }).pipe(Effect.raceFirst(Effect.suspend(() => untilSilent())))

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
      runUntil,
      migrated: Deferred.await(ready),
      reached: () => reached,
      fault: () => fault,
      isAway: Effect.suspend(() => (fault === undefined ? ask : Effect.succeed(true))),
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
