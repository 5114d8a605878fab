// Caches that follow the database: told of changes by NOTIFY, and found by polling where that was missed.

import { Context, Effect, Layer, Option, Queue } from "effect"
import { Database } from "./database.ts"
import type { DatabaseError } from "./errors.ts"
import { query } from "./schema.ts"

/** What changes together; each is a row of `cache_versions`. */
export type Topic = "system_settings" | "carriers" | "routing"

/** A value kept as it was last read. */
export interface Followed<A> {
  /** The last good value; `undefined` until the database was reached for the first time. */
  readonly current: () => A | undefined
}

interface Follower {
  readonly topic: Topic
  readonly reload: Effect.Effect<void, DatabaseError>
  loaded: string | undefined
}

// A change must be in force within 5 s in every replica, also where LISTEN is broken.
const pollEvery = "2 seconds"
const channel = "switchhook_cache"

export class Cache extends Context.Service<
  Cache,
  {
    /**
     * Reads `load` now and again after every change of the topic, and hands each value to `onValue`.
     * While the database is away the last value stays.
     */
    readonly follow: <A>(
      topic: Topic,
      load: Effect.Effect<A, DatabaseError>,
      onValue?: (value: A) => Effect.Effect<void>,
    ) => Effect.Effect<Followed<A>>
  }
>()("switchhook/database/Cache") {
  static readonly layer = Layer.effect(
    Cache,
    Effect.gen(function* () {
      const database = yield* Database
      const followers = new Set<Follower>()
      const wake = yield* Queue.sliding<void>(1)
      const wakeUp = () => {
        Queue.offerUnsafe(wake, undefined)
      }

      const poll = Effect.gen(function* () {
        // The versions are read before the values, so that a change in between is seen again, never missed.
        const rows = yield* database.run(query.selectFrom("cache_versions").select(["topic", "version"]))
        const versions = new Map(rows.map((row) => [row.topic, String(row.version)]))
        for (const follower of followers) {
          const version = versions.get(follower.topic)
          if (version === follower.loaded) continue
          yield* follower.reload
          follower.loaded = version
        }
      })

      const followForever = Effect.gen(function* () {
        yield* database.migrated
        let listening = false
        while (true) {
          if (!listening) {
            listening = yield* database
              .listen(channel, wakeUp, () => {
                listening = false
                wakeUp()
              })
              .pipe(
                Effect.as(true),
                Effect.orElseSucceed(() => false),
              )
          }
          yield* Effect.catch(poll, (error) =>
            Effect.logWarning("Caches not refreshed", { why: error.message }),
          )
          yield* Effect.timeoutOption(Queue.take(wake), pollEvery)
        }
      })
      yield* Effect.forkScoped(followForever)

      return Cache.of({
        follow: <A>(
          topic: Topic,
          load: Effect.Effect<A, DatabaseError>,
          onValue: (value: A) => Effect.Effect<void> = () => Effect.void,
        ) =>
          Effect.sync(() => {
            let value = Option.none<A>()
            followers.add({
              topic,
              loaded: undefined,
              reload: Effect.flatMap(load, (next) => {
                value = Option.some(next)
                return onValue(next)
              }),
            })
            wakeUp()
            return { current: () => Option.getOrUndefined(value) }
          }),
      })
    }),
  )
}
