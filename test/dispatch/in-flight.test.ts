// That work of the process has one run for each key, shared by all who ask meanwhile and stopped by none of them.

import { describe, expect, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Scheduler, Scope } from "effect"
import { InFlight, type Reply } from "../../src/dispatch/in-flight.ts"

const make = Effect.map(Layer.build(InFlight.layer), (context) => Context.get(context, InFlight))

/** A run that waits to be told its answer, counts its starts, and ends once it is let. */
const makeRun = Effect.gen(function* () {
  const answer = yield* Deferred.make<string, string>()
  const end = yield* Deferred.make<void>()
  const run = {
    started: 0,
    ended: 0,
    answer,
    end,
    run: (reply: Reply<string, string>): Effect.Effect<void, string> =>
      Effect.gen(function* () {
        run.started++
        yield* reply(yield* Effect.exit(Deferred.await(answer)))
        yield* Deferred.await(end)
      }).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            run.ended++
          }),
        ),
      ),
  }
  return run
})

/** Asks in a fiber of its own, and lets it get as far as it can. */
const ask = <A>(asking: Effect.Effect<A, string>) => Effect.forkChild(asking, { startImmediately: true })

const settle = Effect.repeat(Effect.yieldNow, { times: 20 })

describe("a run", () => {
  it.effect("is shared by all who ask for its key while it goes on, and only the first began it", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const work = yield* makeRun
      const askers = yield* Effect.forEach(Array.from({ length: 20 }), () =>
        ask(inFlight.share("k", work.run)),
      )
      yield* settle
      expect(work.started).toBe(1)
      yield* Deferred.succeed(work.answer, "done")
      const values = yield* Effect.forEach(askers, Fiber.join)
      expect(values.map(({ value }) => value)).toEqual(Array.from({ length: 20 }, () => "done"))
      expect(values.map(({ shared }) => shared)).toEqual([false, ...Array.from({ length: 19 }, () => true)])
      expect(work.started).toBe(1)
    }),
  )

  it.effect("is of one key only: other keys have runs of their own", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const [one, two] = [yield* makeRun, yield* makeRun]
      const first = yield* ask(inFlight.share("one", one.run))
      const second = yield* ask(inFlight.share("two", two.run))
      yield* Deferred.succeed(two.answer, "two")
      expect(yield* Fiber.join(second)).toEqual({ value: "two", shared: false })
      yield* Deferred.succeed(one.answer, "one")
      expect(yield* Fiber.join(first)).toEqual({ value: "one", shared: false })
    }),
  )

  it.effect("goes on when the one who began it is interrupted, and still answers all others", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const work = yield* makeRun
      const first = yield* ask(inFlight.share("k", work.run))
      yield* settle
      yield* Fiber.interrupt(first)
      expect(work).toMatchObject({ started: 1, ended: 0 })
      const second = yield* ask(inFlight.share("k", work.run))
      const third = yield* ask(inFlight.share("k", work.run))
      yield* settle
      yield* Fiber.interrupt(second)
      yield* Deferred.succeed(work.answer, "done")
      expect(yield* Fiber.join(third)).toEqual({ value: "done", shared: true })
      expect(work.started).toBe(1)
      yield* Deferred.succeed(work.end, undefined)
      yield* inFlight.idle
      expect(work.ended).toBe(1)
    }),
  )

  it.effect("keeps its key until it has ended, however long after its reply", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const work = yield* makeRun
      const first = yield* ask(inFlight.share("k", work.run))
      yield* Deferred.succeed(work.answer, "done")
      expect(yield* Fiber.join(first)).toEqual({ value: "done", shared: false })
      yield* settle
      expect(yield* inFlight.share("k", () => Effect.die("a second run"))).toEqual({
        value: "done",
        shared: true,
      })
      yield* Deferred.succeed(work.end, undefined)
      yield* inFlight.idle
      const again = inFlight.share("k", (reply: Reply<string, never>) => reply(Exit.succeed("again")))
      expect(yield* again).toEqual({ value: "again", shared: false })
    }),
  )

  it.effect("that replies with a failure fails everybody who shares it, and the next one is new", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const work = yield* makeRun
      const askers = yield* Effect.forEach([1, 2, 3], () => ask(inFlight.share("k", work.run)))
      yield* Deferred.fail(work.answer, "no fleet")
      yield* Deferred.succeed(work.end, undefined)
      for (const asker of askers) expect(yield* Fiber.await(asker)).toEqual(Exit.fail("no fleet"))
      yield* inFlight.idle
      const again = inFlight.share("k", (reply: Reply<string, never>) => reply(Exit.succeed("again")))
      expect(yield* again).toEqual({ value: "again", shared: false })
    }),
  )

  it.effect("that fails or dies before its reply fails everybody who shares it with that", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const defect = new Error("broken")
      for (const ending of [Effect.fail("no fleet"), Effect.die(defect)] as const) {
        const go = yield* Deferred.make<void>()
        const run = (_: Reply<string, string>) => Effect.andThen(Deferred.await(go), ending)
        const askers = yield* Effect.forEach([1, 2, 3], () => ask(inFlight.share("k", run)))
        yield* Deferred.succeed(go, undefined)
        const wanted = yield* Effect.exit(ending)
        for (const asker of askers) expect(yield* Fiber.await(asker)).toEqual(wanted)
      }
      yield* inFlight.idle
    }),
  )

  it.effect("that fails after its reply changes nothing for those who share it", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const run = (reply: Reply<string, string>) =>
        reply(Exit.succeed("done")).pipe(
          Effect.andThen(Effect.yieldNow),
          Effect.andThen(Effect.fail("too late")),
        )
      expect(yield* inFlight.share("k", run)).toEqual({ value: "done", shared: false })
      yield* inFlight.idle
      expect(yield* inFlight.share("k", run)).toEqual({ value: "done", shared: false })
    }),
  )

  it.effect("that replies twice is known by its first reply", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const run = (reply: Reply<string, string>) =>
        Effect.andThen(reply(Exit.succeed("first")), reply(Exit.fail("second")))
      expect(yield* inFlight.share("k", run)).toEqual({ value: "first", shared: false })
    }),
  )

  it.effect("that ends without a reply leaves nobody waiting", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const asked = yield* Effect.exit(inFlight.share("k", () => Effect.void))
      expect(Exit.hasDies(asked)).toBe(true)
    }),
  )

  it.effect("is interrupted with the process only, and then leaves nobody waiting", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const inFlight = yield* Scope.provide(make, scope)
      const work = yield* makeRun
      const asker = yield* ask(inFlight.share("k", work.run))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      expect(work.ended).toBe(1)
      expect(Exit.hasInterrupts(yield* Fiber.await(asker))).toBe(true)
    }),
  )
})

describe("an interruption of the one who asks", () => {
  it.effect("at whatever step leaves no key taken without a run", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      let begun = 0
      const run = (reply: Reply<string, string>) =>
        Effect.suspend(() => {
          begun++
          return Effect.andThen(Effect.yieldNow, reply(Exit.succeed("done")))
        })
      // With a yield after every few operations, each of them is a place where the interruption strikes.
      for (const operations of [2, 3, 4, 5, 6, 7, 8]) {
        for (let steps = 0; steps < 20; steps++) {
          const key = `${operations}, ${steps}`
          begun = 0
          const asker = yield* Effect.forkChild(
            Effect.provideService(inFlight.share(key, run), Scheduler.MaxOpsBeforeYield, operations),
          )
          for (let step = 0; step < steps; step++) yield* Effect.yieldNow
          yield* Fiber.interrupt(asker)
          yield* settle
          const again = yield* ask(inFlight.share(key, run))
          yield* settle
          expect(
            again.pollUnsafe(),
            `interrupted in step ${steps} of ${operations} operations each`,
          ).toBeDefined()
          expect(begun).toBeGreaterThan(0)
          yield* Fiber.interrupt(again)
        }
      }
    }),
  )
})

describe("idle", () => {
  it.effect("completes at once where nothing is under way", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      yield* inFlight.idle
      expect(
        yield* inFlight.share("k", (reply: Reply<string, never>) => reply(Exit.succeed("done"))),
      ).toEqual({
        value: "done",
        shared: false,
      })
    }),
  )

  it.effect("waits for every run to end, not only for its reply", () =>
    Effect.gen(function* () {
      const inFlight = yield* make
      const [one, two] = [yield* makeRun, yield* makeRun]
      yield* ask(inFlight.share("one", one.run))
      yield* ask(inFlight.share("two", two.run))
      const idle = yield* Effect.forkChild(inFlight.idle, { startImmediately: true })
      yield* Deferred.succeed(one.answer, "one")
      yield* Deferred.succeed(two.answer, "two")
      yield* Deferred.succeed(one.end, undefined)
      yield* settle
      expect(idle.pollUnsafe()).toBeUndefined()
      expect([one.ended, two.ended]).toEqual([1, 0])
      yield* Deferred.succeed(two.end, undefined)
      yield* Fiber.join(idle)
      expect([one.ended, two.ended]).toEqual([1, 1])
    }),
  )
})
