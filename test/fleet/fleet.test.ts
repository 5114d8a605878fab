// The fleet as a whole: who gets a call while workers die, drain, fill up, recover, come and go.

import { describe, expect, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Logger, Option, Random, Result } from "effect"
import { TestClock } from "effect/testing"
import { Settings } from "../../src/config.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { Fleet, type Seat, type Result as SeatResult } from "../../src/fleet/fleet.ts"
import type { HealthReport } from "../../src/fleet/worker.ts"
import { ProbeFailed, WorkerClient } from "../../src/fleet/worker-client.ts"
import { reportOf } from "../support/fleet-state.ts"
import { settingsOf } from "../support/settings.ts"

type Health = Effect.Effect<HealthReport, ProbeFailed>

const healthy = (report: Partial<HealthReport> = {}): Health => Effect.succeed(reportOf(report))
const idle = healthy({ activeCalls: 0, maxCalls: 100 })
const refused: Health = Effect.fail(new ProbeFailed({ why: "ECONNREFUSED", refused: true }))
const silent: Health = Effect.andThen(
  Effect.sleep(500),
  Effect.fail(new ProbeFailed({ why: "no answer within 500 ms", refused: false })),
)
const slowly = (ms: number, health: Health): Health => Effect.andThen(Effect.sleep(ms), health)

const a = "http://a"
const b = "http://b"
const c = "http://c"
const d = "http://d"

/** A fleet whose workers answer probes as `health` says, and whose setting can be changed. */
const makeFleet = Effect.fnUntraced(function* (
  setting: unknown,
  options: {
    /** By URL; idle where nothing is said. */
    readonly health?: Record<string, Health>
    readonly env?: Record<string, string>
    readonly databaseAway?: boolean
  } = {},
) {
  const stored = new Map<string, unknown>(setting === undefined ? [] : [["core_fleet", setting]])
  const health = new Map(Object.entries(options.health ?? {}))
  const probes = new Map<string, number>()
  let reload: Effect.Effect<void> = Effect.void

  const database = Database.of({
    kind: "embedded",
    place: "memory",
    run: (query) =>
      Effect.sync(() => {
        const { parameters, sql } = "compile" in query ? query.compile() : query
        if (!sql.startsWith("insert")) {
          return stored.has("core_fleet") ? [{ value: stored.get("core_fleet") } as never] : []
        }
        const [key, value] = parameters as [string, string]
        if (!stored.has(key)) stored.set(key, JSON.parse(value))
        return []
      }),
    runUntil: () => Effect.die("nobody asks for that here"),
    migrated: Effect.void,
    reached: () => true,
    fault: () => undefined,
    isAway: Effect.succeed(false),
    listen: () => Effect.void,
  })
  const cache = Cache.of({
    follow: (_, load, onValue = () => Effect.void) => {
      let current: { readonly value: Effect.Success<typeof load> } | undefined
      reload = load.pipe(
        Effect.tap((value) => {
          current = { value }
          return onValue(value)
        }),
        Effect.orDie,
        Effect.asVoid,
      )
      return Effect.as(options.databaseAway === true ? Effect.void : reload, {
        current: () => current?.value,
      })
    },
  })
  const client = WorkerClient.of({
    health: (url) =>
      Effect.suspend(() => {
        probes.set(url, (probes.get(url) ?? 0) + 1)
        return health.get(url) ?? idle
      }),
    dispatch: () => Effect.die("the fleet hands nothing over itself"),
  })
  const context = yield* Layer.build(
    Fleet.layerNoDeps.pipe(
      Layer.provide([
        Layer.succeed(Settings, settingsOf(options.env)),
        Layer.succeed(Database, database),
        Layer.succeed(Cache, cache),
        Layer.succeed(WorkerClient, client),
      ]),
    ),
  )
  const fleet = Context.get(context, Fleet)
  const select = (...excluded: ReadonlyArray<string>) => fleet.select(new Set(excluded))
  return {
    ...fleet,
    select,
    stored,
    probesOf: (url: string) => probes.get(url) ?? 0,
    answers: (url: string, how: Health) => {
      health.set(url, how)
    },
    /** The setting changes, and this replica learns of it. */
    change: (value: unknown) =>
      Effect.suspend(() => {
        stored.set("core_fleet", value)
        return reload
      }),
    /** Who would be picked, in several tries that all leave no trace. */
    picked: Effect.gen(function* () {
      const names = new Set<string>()
      for (let time = 0; time < 40; time++) {
        const { seat } = yield* select()
        names.add(seat.url)
        yield* seat.end("never tried")
      }
      return [...names].sort()
    }).pipe(Random.withSeed("picked")),
    /** Why each worker that is not picked is not. */
    reasons: Effect.map(fleet.view, (views) =>
      Object.fromEntries(views.map(({ url, whyOut }) => [url, whyOut])),
    ),
    viewOf: (url: string) => Effect.map(fleet.view, (views) => views.find((view) => view.url === url)!),
  }
})

const handOver = (seat: Seat, result: SeatResult) => Effect.andThen(seat.begin, seat.end(result))

const afterMs = (ms: number) => TestClock.adjust(ms)

describe("the fleet", () => {
  it.effect("is empty without a setting, and says so apart from one that is out", () =>
    Effect.gen(function* () {
      for (const setting of [undefined, null, "", [], "[]", "not a url"]) {
        const fleet = yield* makeFleet(setting)
        expect(yield* Effect.flip(fleet.select())).toMatchObject({ _tag: "NoFleet", considered: [] })
        expect(fleet.known()).toBe(true)
      }
    }),
  )

  it.effect("is not known until the setting was read for the first time", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a], { databaseAway: true })
      expect(fleet.known()).toBe(false)
      expect(yield* Effect.flip(fleet.select())).toMatchObject({ _tag: "NoFleet" })
      yield* fleet.change([a])
      expect(fleet.known()).toBe(true)
      expect((yield* fleet.select()).seat.url).toBe(a)
    }),
  )

  it.effect("takes CORE_FLEET where the setting is absent, and stores it", () =>
    Effect.gen(function* () {
      const env = { CORE_FLEET: `${a},${b}` }
      const seeded = yield* makeFleet(undefined, { env })
      expect(yield* seeded.picked).toEqual([a, b])
      expect(seeded.stored.get("core_fleet")).toBe(`${a},${b}`)
      expect(yield* (yield* makeFleet([c], { env })).picked).toEqual([c])
      expect(yield* Effect.flip((yield* makeFleet([], { env })).select())).toMatchObject({ _tag: "NoFleet" })
    }),
  )

  it.effect("leaves out an entry that is no URL, with a log line that names it, once", () => {
    const lines: Array<unknown> = []
    const logger = Logger.make(({ logLevel, message }) => {
      if (logLevel === "Error") lines.push(message)
    })
    return Effect.gen(function* () {
      const fleet = yield* makeFleet(["worker-7", a])
      expect(yield* fleet.picked).toEqual([a])
      expect(JSON.stringify(lines)).toContain("worker-7")
      yield* fleet.change(["worker-7", a, b])
      expect(lines).toHaveLength(1)
      yield* fleet.change(["worker-8", a])
      expect(JSON.stringify(lines)).toContain("worker-8")
    }).pipe(Effect.provide(Logger.layer([logger])))
  })

  it.effect("explains every decision: who was picked, passed over and skipped, and why", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([{ url: a, name: "Anna" }, b, { url: c, draining: true }, d], {
        health: { [b]: healthy({ activeCalls: 50, maxCalls: 100 }), [d]: refused },
      })
      yield* afterMs(0)
      const { considered, seat } = yield* fleet.select()
      expect(seat).toMatchObject({ name: "Anna", url: a })
      expect(considered).toEqual([
        { worker: "Anna", verdict: "picked", why: undefined, load: 0 },
        { worker: "b", verdict: "passed over", why: undefined, load: 0.5 },
        { worker: "c", verdict: "skipped", why: "draining (setting)", load: 0 },
        { worker: "d", verdict: "skipped", why: "down: ECONNREFUSED", load: 0 },
      ])
    }),
  )

  it.effect("never picks a worker that was already tried for this call", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b])
      for (let time = 0; time < 20; time++) expect((yield* fleet.select(a)).seat.url).toBe(b)
      expect(yield* Effect.flip(fleet.select(a, b))).toMatchObject({
        _tag: "NoHealthyFleet",
        considered: [
          { worker: "a", why: "already tried" },
          { worker: "b", why: "already tried" },
        ],
      })
    }),
  )
})

describe("a worker", () => {
  it.effect("that was never probed is probed at the moment it is needed", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b], { health: { [a]: slowly(300, idle), [b]: refused } })
      const selecting = yield* Effect.forkChild(fleet.select())
      yield* afterMs(299)
      expect(selecting.pollUnsafe()).toBeUndefined()
      yield* afterMs(1)
      expect((yield* Fiber.join(selecting)).seat.url).toBe(a)
      expect(fleet.probesOf(a)).toBe(1)
    }),
  )

  it.effect("that was never probed keeps nobody waiting where another will do", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      yield* afterMs(0)
      fleet.answers(b, silent)
      yield* fleet.change([a, b])
      expect((yield* fleet.select()).seat.url).toBe(a)
    }),
  )

  it.effect(
    "that was never probed and does not answer leaves the call without a fleet, in the time of one probe",
    () =>
      Effect.gen(function* () {
        const fleet = yield* makeFleet([a], { health: { [a]: silent } })
        const selecting = yield* Effect.forkChild(Effect.flip(fleet.select()))
        yield* afterMs(500)
        expect(yield* Fiber.join(selecting)).toMatchObject({ _tag: "NoHealthyFleet" })
      }),
  )

  it.effect("is probed every second, from the beginning of one probe to that of the next", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a], { health: { [a]: slowly(400, idle) } })
      yield* afterMs(10_500)
      expect(fleet.probesOf(a)).toBe(11)
    }),
  )

  it.effect(
    "that refuses connections gets no call after its next probe, and comes back after two good ones",
    () =>
      Effect.gen(function* () {
        const fleet = yield* makeFleet([a, b])
        yield* afterMs(0)
        expect(yield* fleet.picked).toEqual([a, b])
        fleet.answers(a, refused)
        yield* afterMs(1_000)
        expect(yield* fleet.picked).toEqual([b])
        expect((yield* fleet.reasons)[a]).toBe("down: ECONNREFUSED")
        fleet.answers(a, idle)
        yield* afterMs(1_000)
        expect(yield* fleet.picked).toEqual([b])
        yield* afterMs(1_000)
        expect(yield* fleet.picked).toEqual([a, b])
      }),
  )

  it.effect("that hangs is out after two failed probes, no later than 3 s after it died", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b])
      yield* afterMs(10)
      fleet.answers(a, silent)
      yield* afterMs(1_500)
      expect(yield* fleet.picked).toEqual([a, b])
      yield* afterMs(1_490)
      expect(yield* fleet.picked).toEqual([b])
    }),
  )

  it.effect("whose connection a relay found refused is out at once, and after two good probes in again", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b])
      yield* afterMs(0)
      yield* handOver((yield* fleet.select(b)).seat, "refused connection")
      expect(yield* fleet.picked).toEqual([b])
      expect(yield* fleet.viewOf(a)).toMatchObject({ up: false, calls: 0, inFlight: 0 })
      yield* afterMs(2_000)
      expect(yield* fleet.picked).toEqual([a, b])
    }),
  )

  it.effect("that says it is draining gets no call until it says otherwise", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b], { health: { [a]: healthy({ draining: true }) } })
      yield* afterMs(0)
      expect(yield* fleet.picked).toEqual([b])
      expect((yield* fleet.reasons)[a]).toBe("draining (its own word)")
      fleet.answers(a, idle)
      yield* afterMs(1_000)
      expect(yield* fleet.picked).toEqual([a, b])
    }),
  )

  it.effect("that is full gets no call, reserved places included, until one is free", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([{ url: a, capacity: 2 }], {
        health: { [a]: healthy({ activeCalls: 0 }) },
      })
      yield* afterMs(0)
      const first = yield* fleet.select()
      yield* fleet.select()
      expect(yield* Effect.flip(fleet.select())).toMatchObject({
        _tag: "NoHealthyFleet",
        considered: [{ why: "full (2 of 2)", load: 1 }],
      })
      yield* first.seat.end("turned away")
      expect((yield* fleet.select()).seat.url).toBe(a)
    }),
  )

  it.effect("that reports its calls is full at its own limit too", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b], { health: { [a]: healthy({ activeCalls: 7, maxCalls: 7 }) } })
      yield* afterMs(0)
      expect(yield* fleet.picked).toEqual([b])
      fleet.answers(a, healthy({ activeCalls: 0, maxCalls: 7 }))
      yield* afterMs(1_000)
      expect(yield* fleet.picked).toEqual([a, b])
    }),
  )

  it.effect("says whether it may be sent the same request again", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b], { health: { [b]: slowly(100, healthy({ idempotent: true })) } })
      expect(fleet.idempotentUrls()).toEqual([])
      yield* afterMs(100)
      expect(fleet.idempotentUrls()).toEqual([b])
    }),
  )

  it.effect("that is asked for by name gives a seat whatever its state, as long as it is in the fleet", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([{ url: a, draining: true }], { health: { [a]: refused } })
      yield* afterMs(0)
      const seat = yield* fleet.seatOn(a)
      expect(Option.map(seat, ({ url }) => url)).toEqual(Option.some(a))
      expect((yield* fleet.viewOf(a)).calls).toBe(1)
      yield* Option.getOrThrow(seat).end("never tried")
      expect((yield* fleet.viewOf(a)).calls).toBe(0)
      expect(yield* fleet.seatOn(b)).toEqual(Option.none())
    }),
  )
})

describe("a change of the setting while the service runs", () => {
  it.effect("brings a worker in and takes one out, with its probes", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b])
      yield* afterMs(0)
      yield* fleet.change([b, c])
      yield* afterMs(0)
      expect(yield* fleet.picked).toEqual([b, c])
      const asked = fleet.probesOf(a)
      yield* afterMs(5_000)
      expect(fleet.probesOf(a)).toBe(asked)
      expect(fleet.probesOf(c)).toBe(6)
      expect((yield* fleet.view).map(({ url }) => url)).toEqual([b, c])
    }),
  )

  it.effect("reaches a worker that stays: its draining, capacity and name, but not what is known of it", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b])
      yield* afterMs(0)
      yield* (yield* fleet.select(b)).seat.begin
      yield* fleet.change([b, { url: a, name: "Anna", draining: true }])
      expect(yield* fleet.picked).toEqual([b])
      expect(yield* fleet.viewOf(a)).toMatchObject({
        name: "Anna",
        whyOut: "draining (setting)",
        calls: 1,
        inFlight: 1,
      })
      expect((yield* fleet.view).map(({ url }) => url)).toEqual([b, a])
      yield* fleet.change([{ url: a, capacity: 2 }, b])
      expect(yield* fleet.viewOf(a)).toMatchObject({ name: "a", up: true, load: 0.5 })
    }),
  )

  it.effect("lets seats on a worker that left end properly, however they end", () =>
    Effect.gen(function* () {
      const results: ReadonlyArray<SeatResult> = [
        "accepted",
        "turned away",
        "failed",
        "refused connection",
        "no answer",
        "never tried",
      ]
      const fleet = yield* makeFleet([a])
      const seats = yield* Effect.forEach(results, () => Effect.map(fleet.select(), ({ seat }) => seat))
      for (const seat of seats) yield* seat.begin
      yield* fleet.change([b])
      for (const [at, seat] of seats.entries()) yield* seat.end(results[at]!)
      expect(yield* fleet.picked).toEqual([b])
      expect(yield* fleet.viewOf(b)).toMatchObject({ up: true, calls: 0, inFlight: 0, breaker: "closed" })
      yield* fleet.change([a, b])
      yield* afterMs(0)
      expect(yield* fleet.viewOf(a)).toMatchObject({ up: true, calls: 0, inFlight: 0, breaker: "closed" })
      expect(yield* fleet.picked).toEqual([a, b])
    }),
  )

  it.effect("to an empty list leaves nobody, and back again everybody", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      expect(yield* fleet.picked).toEqual([a])
      yield* fleet.change([])
      expect(yield* Effect.flip(fleet.select())).toMatchObject({ _tag: "NoFleet" })
      yield* fleet.change([a])
      expect(yield* fleet.picked).toEqual([a])
    }),
  )
})

describe("the breaker of a worker", () => {
  const end = Effect.fnUntraced(function* (
    fleet: Effect.Success<ReturnType<typeof makeFleet>>,
    ...results: ReadonlyArray<SeatResult>
  ) {
    for (const result of results) yield* handOver((yield* fleet.select()).seat, result)
  })
  const opened = Effect.gen(function* () {
    const fleet = yield* makeFleet([a])
    yield* end(fleet, "failed", "failed", "failed")
    return fleet
  })

  it.effect("opens after three failures in a row, whatever its probes say", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      yield* end(fleet, "failed", "failed")
      expect((yield* fleet.viewOf(a)).breaker).toBe("closed")
      yield* end(fleet, "failed")
      yield* afterMs(4_900)
      expect(yield* fleet.viewOf(a)).toMatchObject({
        breaker: "open",
        whyOut: "breaker open",
        calls: 0,
        inFlight: 0,
      })
      expect(fleet.probesOf(a)).toBe(5)
      expect(yield* Effect.flip(fleet.select())).toMatchObject({ considered: [{ why: "breaker open" }] })
    }),
  )

  it.effect(
    "counts a relay without an answer as a failure, and keeps its place, for the worker may have the call",
    () =>
      Effect.gen(function* () {
        const fleet = yield* makeFleet([a])
        yield* end(fleet, "no answer", "no answer", "no answer")
        expect(yield* fleet.viewOf(a)).toMatchObject({ breaker: "open", calls: 3, inFlight: 0 })
      }),
  )

  it.effect(
    "is not opened by workers that turn calls away, and a success in between starts the count anew",
    () =>
      Effect.gen(function* () {
        const fleet = yield* makeFleet([a])
        yield* end(fleet, ...Array.from({ length: 10 }, () => "turned away" as const))
        yield* end(
          fleet,
          "failed",
          "failed",
          "turned away",
          "failed",
          "failed",
          "accepted",
          "failed",
          "failed",
        )
        expect(yield* fleet.viewOf(a)).toMatchObject({ breaker: "closed", up: true })
      }),
  )

  it.effect("lets one trial through after 5 s, and closes when that succeeds", () =>
    Effect.gen(function* () {
      for (const result of ["accepted", "turned away"] as const) {
        const fleet = yield* opened
        yield* afterMs(4_999)
        yield* Effect.flip(fleet.select())
        yield* afterMs(1)
        const trial = yield* fleet.select()
        yield* Effect.flip(fleet.select())
        yield* handOver(trial.seat, result)
        expect((yield* fleet.viewOf(a)).breaker).toBe("closed")
        yield* end(fleet, "failed", "failed")
        expect((yield* fleet.select()).seat.url).toBe(a)
      }
    }),
  )

  it.effect("waits twice as long after every trial that fails, up to 60 s", () =>
    Effect.gen(function* () {
      const fleet = yield* opened
      for (const pause of [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]) {
        yield* afterMs(pause - 1)
        expect(Result.isFailure(yield* Effect.result(fleet.select())), `${pause}`).toBe(true)
        yield* afterMs(1)
        yield* handOver((yield* fleet.select()).seat, "failed")
      }
    }),
  )

  it.effect("has its trial back where the call was never tried, and no place is left reserved", () =>
    Effect.gen(function* () {
      const fleet = yield* opened
      yield* afterMs(5_000)
      const trial = yield* fleet.select()
      yield* Effect.flip(fleet.select())
      yield* trial.seat.end("never tried")
      expect((yield* fleet.viewOf(a)).calls).toBe(0)
      const again = yield* fleet.select()
      yield* handOver(again.seat, "never tried")
      expect(yield* fleet.viewOf(a)).toMatchObject({ calls: 0, inFlight: 0, breaker: "open" })
      yield* handOver((yield* fleet.select()).seat, "accepted")
      expect((yield* fleet.viewOf(a)).breaker).toBe("closed")
    }),
  )

  it.effect("is not kept open longer by calls that were under way when it opened", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      const early = yield* Effect.forEach([1, 2, 3, 4, 5, 6], () => fleet.select())
      for (const { seat } of early) yield* seat.begin
      for (const { seat } of early.slice(0, 3)) yield* seat.end("failed")
      yield* afterMs(4_000)
      for (const { seat } of early.slice(3)) yield* seat.end("failed")
      yield* afterMs(1_000)
      expect((yield* fleet.select()).seat.url).toBe(a)
    }),
  )

  it.effect("has one trial at a time, also beside a seat on this very worker that is given back", () =>
    Effect.gen(function* () {
      const fleet = yield* opened
      yield* afterMs(5_000)
      const trial = yield* fleet.select()
      yield* Option.getOrThrow(yield* fleet.seatOn(a)).end("never tried")
      yield* Effect.flip(fleet.select())
      yield* handOver(trial.seat, "accepted")
      expect((yield* fleet.viewOf(a)).breaker).toBe("closed")
    }),
  )

  it.effect(
    "does not wait longer because a call that had to go to this very worker failed before the trial",
    () =>
      Effect.gen(function* () {
        const fleet = yield* opened
        yield* afterMs(1_000)
        yield* handOver(Option.getOrThrow(yield* fleet.seatOn(a)), "failed")
        yield* afterMs(4_000)
        expect((yield* fleet.select()).seat.url).toBe(a)
      }),
  )

  it.effect("takes no other worker out", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a, b])
      yield* afterMs(0)
      for (let time = 0; time < 3; time++) yield* handOver((yield* fleet.select(b)).seat, "failed")
      expect(yield* fleet.picked).toEqual([b])
    }),
  )
})

describe("a place kept for a call", () => {
  it.effect("is there from the selection on, and counts as a relay under way only while it is one", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      const { seat } = yield* fleet.select()
      expect(yield* fleet.viewOf(a)).toMatchObject({ calls: 1, inFlight: 0 })
      yield* seat.begin
      expect(yield* fleet.viewOf(a)).toMatchObject({ calls: 1, inFlight: 1 })
      yield* seat.end("accepted")
      expect(yield* fleet.viewOf(a)).toMatchObject({ calls: 1, inFlight: 0 })
    }),
  )

  it.effect("is free again at once where the worker does not have the call", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      for (const result of ["turned away", "failed", "never tried"] as const) {
        yield* handOver((yield* fleet.select()).seat, result)
        expect(yield* fleet.viewOf(a), result).toMatchObject({ calls: 0, inFlight: 0 })
      }
    }),
  )

  it.effect("is kept until a probe begun 1 s after the hand-over tells the worker's own number", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      yield* afterMs(500)
      yield* handOver((yield* fleet.select()).seat, "accepted")
      yield* afterMs(500)
      expect((yield* fleet.viewOf(a)).calls).toBe(1)
      fleet.answers(a, healthy({ activeCalls: 1, maxCalls: 100 }))
      yield* afterMs(999)
      expect((yield* fleet.viewOf(a)).calls).toBe(1)
      yield* afterMs(1)
      expect(yield* fleet.viewOf(a)).toMatchObject({ calls: 1, load: 0.01 })
      fleet.answers(a, idle)
      yield* afterMs(1_000)
      expect((yield* fleet.viewOf(a)).calls).toBe(0)
    }),
  )

  it.effect("is kept for 20 s on a worker that reports no calls", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a], { health: { [a]: healthy() } })
      yield* afterMs(500)
      yield* handOver((yield* fleet.select()).seat, "accepted")
      yield* afterMs(19_900)
      expect((yield* fleet.viewOf(a)).calls).toBe(1)
      yield* afterMs(1_100)
      expect((yield* fleet.viewOf(a)).calls).toBe(0)
    }),
  )

  it.effect("outlasts every probe while the relay is under way", () =>
    Effect.gen(function* () {
      const fleet = yield* makeFleet([a])
      const { seat } = yield* fleet.select()
      yield* seat.begin
      yield* afterMs(9_900)
      expect(yield* fleet.viewOf(a)).toMatchObject({ calls: 1, inFlight: 1 })
      yield* seat.end("accepted")
    }),
  )
})

describe("calls spread over equal workers", () => {
  const workers = [a, b, c, d]
  const seeds = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
  const countBy = (urls: ReadonlyArray<string>) =>
    workers.map((url) => urls.filter((other) => other === url).length)

  const fleetOf = Effect.fnUntraced(function* (health: (at: number) => Health) {
    const fleet = yield* makeFleet(workers, {
      health: Object.fromEntries(workers.map((url, at) => [url, health(at)])),
    })
    yield* afterMs(500)
    return fleet
  })

  it.effect.each([
    { how: "report their calls", health: () => idle },
    { how: "report nothing", health: () => healthy() },
    { how: "report their calls at different speeds", health: (at: number) => slowly(at * 100, idle) },
    { how: "report nothing at different speeds", health: (at: number) => slowly(at * 100, healthy()) },
    { how: "are half full already", health: () => healthy({ activeCalls: 100, maxCalls: 200 }) },
  ])("in a burst of 100 between two probes: 25 ± 8 on each of four that $how", ({ health }) =>
    Effect.gen(function* () {
      for (const seed of seeds) {
        for (const result of ["accepted", undefined] as const) {
          const fleet = yield* fleetOf(health)
          const burst = Effect.forEach(Array.from({ length: 100 }), () =>
            Effect.gen(function* () {
              const { seat } = yield* fleet.select()
              yield* seat.begin
              if (result !== undefined) yield* seat.end(result)
              return seat.url
            }),
          )
          for (const count of countBy(yield* Random.withSeed(burst, seed))) {
            expect(Math.abs(count - 25), `${seed} ${result}`).toBeLessThanOrEqual(8)
          }
        }
      }
    }),
  )

  it.effect.each([{ everyMs: 0 }, { everyMs: 10 }, { everyMs: 40 }])(
    "in 400 calls, one every $everyMs ms: 100 ± 32 on each of four that report no load",
    ({ everyMs }) =>
      Effect.gen(function* () {
        for (const seed of seeds) {
          const fleet = yield* fleetOf(() => healthy())
          const calls = Effect.forEach(Array.from({ length: 400 }), () =>
            Effect.gen(function* () {
              const { seat } = yield* fleet.select()
              yield* handOver(seat, "accepted")
              if (everyMs > 0) yield* afterMs(everyMs)
              return seat.url
            }),
          )
          for (const count of countBy(yield* Random.withSeed(calls, seed))) {
            expect(Math.abs(count - 100), seed).toBeLessThanOrEqual(32)
          }
        }
      }),
  )

  it.effect("that report truly what they have, also over many probes", () =>
    Effect.gen(function* () {
      for (const seed of seeds) {
        const taken = new Map(workers.map((url) => [url, 0]))
        const reporting = (url: string) =>
          Effect.sync(() => reportOf({ activeCalls: taken.get(url)!, maxCalls: 400 }))
        const fleet = yield* makeFleet(workers, {
          health: Object.fromEntries(workers.map((url) => [url, reporting(url)])),
        })
        const calls = Effect.forEach(Array.from({ length: 400 }), () =>
          Effect.gen(function* () {
            const { seat } = yield* fleet.select()
            taken.set(seat.url, taken.get(seat.url)! + 1)
            yield* handOver(seat, "accepted")
            yield* afterMs(25)
          }),
        )
        yield* Random.withSeed(calls, seed)
        for (const count of taken.values()) expect(Math.abs(count - 100), seed).toBeLessThanOrEqual(20)
        yield* afterMs(3_000)
        for (const { calls, url } of yield* fleet.view) expect(calls).toBe(taken.get(url))
      }
    }),
  )
})
