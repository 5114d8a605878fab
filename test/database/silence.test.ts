// When a database counts as away: not while it answers anybody.

import { it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { describe, expect } from "vitest"
import { monotonicMs } from "../../src/clock.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { makeOwnEmbedded } from "../support/engines.ts"

const one = query.selectFrom("calls").select("id").limit(1).compile()

/** A database whose ping takes a while, and what became of each. */
const withSlowPing = Effect.gen(function* () {
  const engine = yield* Effect.promise(makeOwnEmbedded)
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
  const engine = yield* Effect.promise(makeOwnEmbedded)
  let deaf = false
  let brokenOff = 0
  const ping = (signal: AbortSignal) => {
    if (!deaf) return engine.ping(signal)
    signal.addEventListener("abort", () => brokenOff++)
    return new Promise<void>(() => {})
  }
  const database = yield* Database.make({ ...engine, ping })
  return {
    database,
    brokenOff: () => brokenOff,
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
      expect(yield* waitFor(() => database.fault() !== undefined, 30_000)).toBe(true)
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

  it.effect("is asked anew after 3 s, while it answers others", () =>
    Effect.gen(function* () {
      const { brokenOff, database, turnDeaf } = yield* withDeafPing
      yield* database.migrated
      turnDeaf()
      for (let asked = 0; asked < 15; asked++) {
        yield* database.run(one)
        yield* TestClock.adjust("500 millis")
        expect(database.fault()).toBeUndefined()
      }
      expect(brokenOff()).toBe(2)
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

/** A database that leaves its statements unanswered once it is told to. */
const withDeafStatements = Effect.gen(function* () {
  const engine = yield* Effect.promise(makeOwnEmbedded)
  let deaf = false
  const never = new Promise<never>(() => {})
  const run: typeof engine.run = (statement) => (deaf ? never : engine.run(statement))
  const ping = (signal: AbortSignal) => (deaf ? never : engine.ping(signal))
  return {
    makeDatabase: (answersPings: boolean) =>
      Database.make({ ...engine, run, ping: answersPings ? engine.ping : ping }),
    turnDeaf: () => {
      deaf = true
    },
  }
})

const until = (seconds: number) =>
  Effect.clockWith((clock) => Effect.succeed(monotonicMs(clock) + seconds * 1_000))

describe("somebody who can do without the database", () => {
  it.effect("waits until it is known to be away, and no longer", () =>
    Effect.gen(function* () {
      const { makeDatabase, turnDeaf } = yield* withDeafStatements
      const database = yield* makeDatabase(false)
      yield* database.migrated
      expect(yield* database.runUntil(one, yield* until(5))).toEqual([])
      turnDeaf()
      const asked = yield* Effect.forkChild(Effect.result(database.runUntil(one, yield* until(60))))
      yield* TestClock.adjust("500 millis")
      expect(asked.pollUnsafe()).toBeUndefined()
      yield* TestClock.adjust("1 second")
      expect(yield* Fiber.join(asked)).toMatchObject({ failure: { _tag: "DatabaseUnavailable" } })
      // From then on nobody waits at all.
      expect(yield* Effect.result(database.runUntil(one, yield* until(60)))).toMatchObject({
        failure: { _tag: "DatabaseUnavailable" },
      })
    }).pipe(Effect.scoped),
  )

  it.effect("waits until then for one that is there, and does not answer", () =>
    Effect.gen(function* () {
      const { makeDatabase, turnDeaf } = yield* withDeafStatements
      const database = yield* makeDatabase(true)
      yield* database.migrated
      turnDeaf()
      const asked = yield* Effect.forkChild(Effect.result(database.runUntil(one, yield* until(5))))
      yield* TestClock.adjust("4900 millis")
      expect(asked.pollUnsafe()).toBeUndefined()
      yield* TestClock.adjust("500 millis")
      const result = yield* Fiber.join(asked)
      expect(result).toMatchObject({ failure: { message: expect.stringMatching(/does not answer/) } })
      expect(database.fault()).toBeUndefined()
    }).pipe(Effect.scoped),
  )
})
