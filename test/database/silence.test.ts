// When a database counts as away: not while it answers anybody.

import { it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { describe, expect } from "vitest"
import { Database } from "../../src/database/database.ts"
import { makeEmbedded } from "../../src/database/embedded.ts"
import { query } from "../../src/database/schema.ts"

const one = query.selectFrom("calls").select("id").limit(1).compile()

/** A database whose ping takes a while, and what became of each. */
const withSlowPing = Effect.gen(function* () {
  const engine = yield* Effect.promise(() => makeEmbedded(undefined))
  const ended: Array<"answered" | "broken off"> = []
  const ping = (signal: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(ended.push("broken off")))
      setTimeout(() => resolve(void ended.push("answered")), 300)
    })
  return { database: yield* Database.make({ ...engine, ping }), ended }
})

/** A database whose ping stays unanswered once it is told to. */
const withDeafPing = Effect.gen(function* () {
  const engine = yield* Effect.promise(() => makeEmbedded(undefined))
  let deaf = false
  const ping = (signal: AbortSignal) => (deaf ? new Promise<void>(() => {}) : engine.ping(signal))
  const database = yield* Database.make({ ...engine, ping })
  return {
    database,
    turnDeaf: () => {
      deaf = true
    },
  }
})

const waitFor = (is: () => boolean, ms: number) =>
  Effect.gen(function* () {
    const deadline = performance.now() + ms
    while (!is() && performance.now() < deadline) yield* Effect.sleep(20)
    return is()
  })

describe("a database whose ping is not answered", () => {
  it.live("is slow while it answers others, and away once it answers nobody", () =>
    Effect.gen(function* () {
      const { database, turnDeaf } = yield* withDeafPing
      yield* database.migrated
      expect(database.fault()).toBeUndefined()
      turnDeaf()
      for (let asked = 0; asked < 25; asked++) {
        yield* database.run(one)
        expect(database.fault()).toBeUndefined()
        yield* Effect.sleep(100)
      }
      expect(yield* waitFor(() => database.fault() !== undefined, 5_000)).toBe(true)
      expect(database.fault()).toMatch(/no answer within/)
    }).pipe(Effect.scoped),
  )

  it.effect("is away 600 ms after its last answer to anybody, whenever it was asked", () =>
    Effect.gen(function* () {
      const { database, turnDeaf } = yield* withDeafPing
      yield* database.migrated
      turnDeaf()
      // The next ping, and an answer to somebody else while it waits.
      yield* TestClock.adjust("550 millis")
      yield* database.run(one)
      yield* TestClock.adjust("550 millis")
      expect(database.fault()).toBeUndefined()
      yield* TestClock.adjust("150 millis")
      expect(database.fault()).toMatch(/no answer within/)
    }).pipe(Effect.scoped),
  )

  it.live("yet is answered, also where whoever has asked waits no longer", () =>
    Effect.gen(function* () {
      const { database, ended } = yield* withSlowPing
      yield* database.migrated
      for (let asked = 0; asked < 10; asked++) {
        yield* Effect.timeoutOption(database.isAway, 50)
        expect(database.fault()).toBeUndefined()
      }
      expect(yield* database.isAway).toBe(false)
      expect(new Set(ended)).toEqual(new Set(["answered"]))
    }).pipe(Effect.scoped),
  )
})
