// Who is turned away when, and that every place is given back.

import { Clock, Context, Deferred, Effect, Exit, Fiber, Layer, Logger } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Settings } from "../src/config.ts"
import { type Kind, Load, type LoadShape, loadLayer, Overloaded } from "../src/load.ts"
import { cases } from "./support/properties.ts"
import { settingsOf } from "./support/settings.ts"

const kinds: ReadonlyArray<Kind> = ["unsigned", "record", "admin", "call"]

interface Stage {
  readonly load: LoadShape
  /** Lets the thread be looked at once more, so many milliseconds late. */
  readonly beat: (lateMs?: number) => Promise<void>
  /** The same for so long. */
  readonly beats: (forMs: number, lateMs?: number) => Promise<void>
  readonly log: ReadonlyArray<string>
}

/** A load on a clock that is put forward by hand. */
const withLoad = (most: number, test: (stage: Stage) => Promise<void>): Promise<void> => {
  let nanos = 123_456_789_012_345n
  let wake: (() => void) | undefined
  const log: Array<string> = []
  const asleep = async () => {
    while (wake === undefined) await new Promise(setImmediate)
    return wake
  }
  const beat = async (lateMs = 0) => {
    const wakeNow = await asleep()
    wake = undefined
    nanos += BigInt(50 + lateMs) * 1_000_000n
    wakeNow()
    await asleep()
  }
  const beats = async (forMs: number, lateMs = 0) => {
    for (let passed = 0; passed < forMs; passed += 50 + lateMs) await beat(lateMs)
  }
  return Effect.gen(function* () {
    const clock: Clock.Clock = Object.create(yield* Clock.Clock)
    clock.monotonicTimeNanosUnsafe = () => nanos
    const sleep = Effect.callback<void>((resume) => {
      wake = () => resume(Effect.void)
    })
    Object.assign(clock, { sleep: () => sleep })
    const settings = Layer.succeed(Settings, settingsOf({ MAX_IN_WORK: String(most) }))
    const logger = Logger.layer([Logger.make(({ message }) => log.push(JSON.stringify(message)))])
    const built = yield* Layer.build(Layer.provide(loadLayer, Layer.merge(settings, logger))).pipe(
      Effect.provideService(Clock.Clock, clock),
    )
    yield* Effect.promise(() => test({ load: Context.get(built, Load), beat, beats, log }))
  }).pipe(Effect.scoped, Effect.runPromise)
}

const hold = (load: LoadShape, count: number) =>
  Array.from({ length: count }, () => Effect.runFork(load.count(Effect.never)))

const refused = (load: LoadShape) => kinds.filter(load.refuses)

describe("what is in work", () => {
  it("turns away unsigned requests first, then what only records, and calls last", () =>
    withLoad(8, async ({ load }) => {
      const seen = Array.from({ length: 9 }, () => {
        const now = refused(load)
        hold(load, 1)
        return now.join(" ")
      })
      const [none, half, more, all] = ["", "unsigned", "unsigned record admin", kinds.join(" ")]
      expect(seen).toEqual([none, none, none, none, half, half, more, more, all])
    }))

  it("is turned away before it begins, and only then", () =>
    withLoad(1, async ({ load }) => {
      let begun = 0
      const work = Effect.sync(() => ++begun)
      expect(Effect.runSync(load.admit("call", work))).toBe(1)
      const [held] = hold(load, 1)
      const exit = Effect.runSyncExit(load.admit("call", work))
      expect(exit).toEqual(Exit.fail(new Overloaded()))
      expect(begun).toBe(1)
      // What must not be turned away is not.
      expect(Effect.runSync(load.count(work))).toBe(2)
      await Effect.runPromise(Fiber.interrupt(held!))
      expect(Effect.runSync(load.admit("call", work))).toBe(3)
    }))

  it("leaves its place to others while it waits for somebody else", () =>
    withLoad(1, async ({ load }) => {
      const answered = Deferred.makeUnsafe<string>()
      const waiting = Effect.runFork(load.admit("call", load.aside(Deferred.await(answered))))
      expect(load.view().inWork).toBe(0)
      expect(Effect.runSync(load.admit("call", Effect.succeed("another")))).toBe("another")
      Effect.runSync(Deferred.succeed(answered, "here"))
      expect(await Effect.runPromise(Fiber.join(waiting))).toBe("here")
      expect(load.view().inWork).toBe(0)
    }))

  it("counts a pause that begins once, or never, and ends once", () =>
    withLoad(4, async ({ load }) => {
      hold(load, 2)
      const { begin, end } = load.pause()
      begin()
      begin()
      expect(load.view().inWork).toBe(1)
      end()
      end()
      expect(load.view().inWork).toBe(2)
      begin()
      load.pause().end()
      expect(load.view().inWork).toBe(2)
    }))

  it("is nothing again, however all of it has ended", async () => {
    type Shape = {
      readonly how: "ok" | "fail" | "die" | "never" | "yield"
      readonly wrap: ReadonlyArray<number>
    }
    const ends = {
      ok: Effect.void,
      fail: Effect.fail("no"),
      die: Effect.die("bug"),
      never: Effect.never,
      yield: Effect.yieldNow,
    } as const
    const shape: fc.Arbitrary<Shape> = fc.record({
      how: fc.constantFrom("ok", "fail", "die", "never", "yield"),
      wrap: fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 4 }),
    })
    await withLoad(3, async ({ load }) => {
      const wrapped = ({ how, wrap }: Shape) =>
        wrap.reduce<Effect.Effect<void, unknown>>((work, by) => {
          if (by === 0) return load.admit("call", work)
          return by === 1 ? load.count(work) : load.aside(work)
        }, ends[how])
      await fc.assert(
        fc.asyncProperty(fc.array(shape, { maxLength: 8 }), fc.array(fc.nat(7)), async (shapes, stopped) => {
          const fibers = shapes.map((each) => Effect.runFork(wrapped(each)))
          // Some at once, the rest after they have had time to begin.
          const early = stopped.flatMap((index) => fibers[index] ?? [])
          await Effect.runPromise(Effect.forEach(early, Fiber.interrupt))
          await Effect.runPromise(Effect.andThen(Effect.yieldNow, Effect.forEach(fibers, Fiber.interrupt)))
          expect(load.view().inWork).toBe(0)
        }),
        cases,
      )
    })
  })
})

describe("a thread that is late", () => {
  it("once, for however long, turns nobody away", () =>
    withLoad(8, async ({ beat, beats, load }) => {
      for (const pause of [500, 3_000, 60_000]) {
        await beat(pause)
        expect(refused(load)).toEqual([])
        await beats(500)
        expect(refused(load)).toEqual([])
      }
    }))

  it("for less than a second, or now and then, turns nobody away", () =>
    withLoad(8, async ({ beat, beats, load }) => {
      await beat(3_000)
      await beats(800, 150)
      expect(refused(load)).toEqual([])
      await beat()
      for (let time = 0; time < 20; time++) {
        await beats(800, 150)
        await beat(90)
        expect(refused(load)).toEqual([])
      }
    }))

  it("lastingly, takes nothing unsigned, then nothing that only records, and fewer calls, but never none", () =>
    withLoad(64, async ({ beats, load }) => {
      await beats(1_400, 150)
      expect(refused(load)).toEqual(["unsigned"])
      await beats(1_000, 150)
      expect(refused(load)).toEqual(["unsigned", "record", "admin"])
      await beats(10_000, 150)
      expect(load.view()).toMatchObject({ allowed: 16, lateMs: 150 })
      hold(load, 15)
      expect(load.refuses("call")).toBe(false)
      hold(load, 1)
      expect(load.refuses("call")).toBe(true)
    }))

  it("and then is not, takes all again within seconds", () =>
    withLoad(64, async ({ beats, load }) => {
      await beats(20_000, 300)
      await beats(2_000)
      expect(refused(load)).toEqual([])
      expect(load.view().allowed).toBe(64)
    }))
})

describe("shedding", () => {
  it("is said once when it begins and once when it has been over for a while, with how much it was", () =>
    withLoad(1, async ({ beats, load, log }) => {
      const [held] = hold(load, 1)
      const shed = (kind: Kind) => Effect.runSyncExit(load.admit(kind, Effect.void))
      await beats(1_000)
      expect(log).toEqual([])
      shed("call")
      await beats(1_000)
      for (const kind of ["record", "call"] as const) shed(kind)
      await beats(4_500)
      expect(load.view().shed).toEqual(["record", "call"])
      expect(log).toEqual([expect.stringContaining('["Shedding load",{"call":1,"in_work":1')])
      await Effect.runPromise(Fiber.interrupt(held!))
      await beats(1_000)
      expect(load.view().shed).toEqual([])
      expect(log.slice(1)).toEqual(['["Load is no longer shed",{"call":2,"record":1,"for_s":1}]'])
      await beats(10_000)
      expect(log).toHaveLength(2)
    }))
})
