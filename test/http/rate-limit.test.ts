// How many unsigned requests a source gets, whatever it and others do and whenever.

import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Clock, Context, Effect, Layer } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Settings } from "../../src/config.ts"
import { RateLimit } from "../../src/http/rate-limit.ts"
import { cases } from "../support/properties.ts"
import { settingsOf } from "../support/settings.ts"

const minute = 60_000

/** A limit on a clock that is put forward by hand, in milliseconds. */
const makeLimit = (perMinute: number) => {
  // A monotonic clock starts anywhere.
  let nanos = 123_456_789_012_345n
  const build = Effect.gen(function* () {
    const clock: Clock.Clock = Object.create(yield* Clock.Clock)
    clock.monotonicTimeNanosUnsafe = () => nanos
    const settings = Layer.succeed(Settings, settingsOf({ RATE_LIMIT_PER_MINUTE: String(perMinute) }))
    return yield* Layer.build(Layer.provide(RateLimit.layer, settings)).pipe(
      Effect.provideService(Clock.Clock, clock),
    )
  })
  const { isSuspect, take, vouch } = Context.get(Effect.runSync(Effect.scoped(build)), RateLimit)
  return {
    isSuspect,
    take,
    vouch,
    isAllowed: (bucket = "a") => take(bucket).allowed,
    /** How many of so many requests at once are allowed. */
    burst: (requests: number, bucket = "a") =>
      Array.from({ length: requests }, () => take(bucket)).filter(({ allowed }) => allowed).length,
    pass: (ms: number) => {
      nanos += BigInt(Math.round(ms * 1e6))
    },
  }
}

const perMinute = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(60, 100, 999, 1_000_000))
const pause = fc.oneof(
  fc.constant(0),
  fc.integer({ min: 1, max: 2_000 }),
  fc.integer({ min: 1, max: 3 * minute }),
  fc.double({ min: 0, max: 1_000, noNaN: true }),
)

describe("one source", () => {
  it("gets its whole minute at once, and not one request more", () => {
    expect(makeLimit(100).burst(250)).toBe(100)
    expect(makeLimit(1).burst(5)).toBe(1)
  })

  it("gets its requests back one by one", () => {
    const { burst, isAllowed, pass } = makeLimit(60)
    burst(60)
    pass(999)
    expect(isAllowed()).toBe(false)
    pass(1)
    expect(isAllowed()).toBe(true)
    expect(isAllowed()).toBe(false)
    pass(10_000)
    expect(burst(60)).toBe(10)
  })

  it("gets back the whole minute in a minute, and no more in a year", () => {
    for (const pauseMs of [minute, 365 * 24 * 60 * minute]) {
      const { burst, pass } = makeLimit(100)
      burst(100)
      pass(pauseMs)
      expect(burst(250)).toBe(100)
    }
  })

  it("is told when to come back, to the second", () => {
    const { burst, pass, take } = makeLimit(1)
    burst(1)
    expect(take("a")).toEqual({ allowed: false, retryAfterSeconds: 60 })
    pass(30_500)
    expect(take("a")).toEqual({ allowed: false, retryAfterSeconds: 30 })
    pass(29_499)
    expect(take("a")).toEqual({ allowed: false, retryAfterSeconds: 1 })
    pass(1)
    expect(take("a")).toEqual({ allowed: true })
  })

  it("is not punished for asking while it is refused", () => {
    const { burst, isAllowed, pass } = makeLimit(60)
    burst(60)
    for (let asked = 0; asked < 10; asked++) {
      pass(100)
      expect(isAllowed()).toBe(asked === 9)
    }
  })

  it("never gets more than its minute and what time gave back, over any stretch of time", () => {
    const turn = fc.record({ pause, requests: fc.integer({ min: 1, max: 30 }) })
    fc.assert(
      fc.property(perMinute, fc.array(turn, { maxLength: 40 }), (perMinute, turns) => {
        const { burst, pass } = makeLimit(perMinute)
        // Time counts in whole milliseconds, so a stretch of it can seem longer by part of one.
        const givenBack = (ms: number) => ((ms + 1) * perMinute) / minute
        let stretches: Array<{ readonly allowed: number; readonly ms: number }> = []
        for (const { pause, requests } of turns) {
          pass(pause)
          const allowed = burst(requests)
          stretches = stretches.map((stretch) => ({
            allowed: stretch.allowed + allowed,
            ms: stretch.ms + pause,
          }))
          stretches.push({ allowed, ms: 0 })
          const tooMuch = stretches.filter(({ allowed, ms }) => allowed > perMinute + givenBack(ms))
          expect(tooMuch).toEqual([])
        }
      }),
      cases,
    )
  })

  it("is allowed again when it was told, and was refused until a second before", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200 }),
        fc.array(pause, { maxLength: 5 }),
        (perMinute, pauses) => {
          const { burst, isAllowed, pass, take } = makeLimit(perMinute)
          for (const ms of pauses) {
            pass(ms)
            burst(perMinute)
          }
          burst(perMinute)
          const answer = take("a")
          if (answer.allowed) throw new Error("it was used up")
          expect(answer.retryAfterSeconds).toBeGreaterThanOrEqual(1)
          pass((answer.retryAfterSeconds - 1) * 1_000)
          expect(isAllowed()).toBe(false)
          pass(1_000)
          expect(isAllowed()).toBe(true)
        },
      ),
      cases,
    )
  })
})

describe("many sources", () => {
  it("change nothing for each other", () => {
    const request = fc.record({ bucket: fc.constantFrom("a", "b", "c"), pause })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.array(request), (perMinute, requests) => {
        const together = makeLimit(perMinute)
        const alone = new Map(["a", "b", "c"].map((bucket) => [bucket, makeLimit(perMinute)]))
        for (const { bucket, pause } of requests) {
          for (const limit of [together, ...alone.values()]) limit.pass(pause)
          expect(together.take(bucket)).toEqual(alone.get(bucket)?.take(bucket))
        }
      }),
      cases,
    )
  })

  const buckets = (count: number, name = "flood") => Array.from({ length: count }, (_, n) => `${name} ${n}`)
  const countAllowed = (names: ReadonlyArray<string>, isAllowed: (bucket: string) => boolean) =>
    names.filter((name) => isAllowed(name)).length

  it("are remembered, ten thousand of them", () => {
    const { isAllowed } = makeLimit(1)
    expect(countAllowed(buckets(10_000), isAllowed)).toBe(10_000)
    expect(countAllowed(buckets(10_000), isAllowed)).toBe(0)
  })

  it("together never get more than ten thousand do, however many they are", () => {
    const { isAllowed, pass } = makeLimit(2)
    const flood = buckets(15_000)
    const twice = () => countAllowed([...flood, ...flood], isAllowed)
    expect(twice() + twice()).toBe(20_000)
    pass(minute / 4)
    expect(twice()).toBe(0)
    pass(minute / 4)
    expect(twice()).toBe(10_000)
  })

  it("that were idle for a minute make room, and leave no debt", () => {
    const { burst, pass } = makeLimit(2)
    for (const name of buckets(10_000)) burst(2, name)
    pass(minute)
    for (const name of buckets(10_000, "other")) expect(burst(3, name)).toBe(2)
  })

  it("do not free one that keeps on flooding", () => {
    const { burst, isAllowed, pass } = makeLimit(1)
    burst(1, "mule")
    for (const [n, name] of buckets(30_000).entries()) {
      isAllowed(name)
      if (n % 5_000 === 0) expect(isAllowed("mule")).toBe(false)
    }
    pass(minute)
    expect(isAllowed("mule")).toBe(true)
  })

  it("take bounded memory", () => {
    const { isAllowed } = makeLimit(100)
    setFlagsFromString("--expose-gc")
    const collect: () => void = runInNewContext("gc")
    const used = () => {
      collect()
      return process.memoryUsage().heapUsed
    }
    const before = used()
    for (let n = 0; n < 300_000; n++) isAllowed(`2001:db8:${n}::/64`)
    // Ten thousand take some 2 MB, all of them would take over 30.
    expect(used() - before).toBeLessThan(15_000_000)
    expect(isAllowed("still alive")).toBe(true)
  })
})

describe("a suspect", () => {
  it("is who has used half of its minute, until time gives it back", () => {
    const { burst, isSuspect, pass } = makeLimit(10)
    expect(isSuspect("a")).toBe(false)
    burst(4)
    expect(isSuspect("a")).toBe(false)
    burst(1)
    expect(isSuspect("a")).toBe(true)
    expect(isSuspect("b")).toBe(false)
    pass(6_000)
    expect(isSuspect("a")).toBe(false)
    burst(100)
    pass(30_000)
    expect(isSuspect("a")).toBe(true)
    pass(1)
    expect(isSuspect("a")).toBe(false)
  })

  it("is nobody who has sent something validly signed within a minute", () => {
    const { burst, isSuspect, pass, vouch } = makeLimit(10)
    burst(10)
    vouch("a")
    pass(minute - 1)
    burst(10)
    expect(isSuspect("a")).toBe(false)
    pass(2)
    expect(isSuspect("a")).toBe(true)
    vouch("a")
    expect(isSuspect("a")).toBe(false)
  })

  it("costs nothing to ask about", () => {
    const { burst, isSuspect, vouch } = makeLimit(10)
    for (let time = 0; time < 100; time++) {
      isSuspect("a")
      vouch("a")
    }
    expect(burst(20)).toBe(10)
  })
})
