// How much is in work, and who is turned away past that: no queue grows, and calls are turned away last.
//
// Two things fill up here: the connections to the database, and this process's one thread. A worker that has been
// given a call, LiveKit while it is asked, or another delivery's answer takes neither, however long it takes.

import { Context, Data, Effect, Layer } from "effect"
import { monotonicMs, theClock } from "./clock.ts"
import { Settings } from "./config.ts"
import { countShed } from "./metrics.ts"

/** Who is turned away, in this order: `unsigned` from half of what may be in work, then what only records. */
export type Kind = "unsigned" | "record" | "admin" | "call"

/** More is in work than can be done soon, and this was not begun. */
export class Overloaded extends Data.TaggedClass("Overloaded")<{}> {}

/** What can be seen of it from outside. */
export interface LoadView {
  readonly inWork: number
  /** How much may be. */
  readonly allowed: number
  /** How late the thread was when it was last looked at. */
  readonly lateMs: number
  /** Who has been turned away of late. */
  readonly shed: ReadonlyArray<Kind>
}

export interface LoadShape {
  /** Whether one more of a kind is too much now. */
  readonly refuses: (kind: Kind) => boolean
  /** Turns one away. */
  readonly refuse: (kind: Kind) => Effect.Effect<never, Overloaded>
  /** Begins the work unless it is too much; it is in work until it ends, however it does. */
  readonly admit: <A, E, R>(kind: Kind, work: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Overloaded, R>
  /** Work that must not be turned away, and counts. */
  readonly count: <A, E, R>(work: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** What admitted work waits for without any load of ours: it does not count meanwhile. */
  readonly aside: <A, E, R>(waiting: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** The same where only a callback knows when that begins. It ends once, begun or not. */
  readonly pause: () => { readonly begin: () => void; readonly end: () => void }
  readonly view: () => LoadView
}

const kinds: ReadonlyArray<Kind> = ["unsigned", "record", "admin", "call"]

const beatMs = 50
// A request meets some ten turns of the thread on its way: so late at each, it takes a second.
const lateMs = 100
// Garbage, a frozen process, a burst: all pass. A thread that is late each time for so long, and so often, has too
// much to do.
const lastsMs = 1_000
const lastsBeats = 4
const halvesInMs = 500
const growsInMs = 2_000
const longestBeatMs = 250
// However late the thread is, and it may be others who hold it up, calls get through.
const leastShare = 1 / 4

/** The share of what may be in work that a thread can do: less while it is lastingly late, then soon all again. */
const makeShare = () => {
  let share = 1
  let lateSince = 0
  let lateBeats = 0
  return (now: number, elapsed: number): number => {
    const passed = Math.min(elapsed, longestBeatMs)
    if (elapsed - beatMs <= lateMs) {
      lateBeats = 0
      share = Math.min(1, share + passed / growsInMs)
      return share
    }
    if (lateBeats++ === 0) lateSince = now
    if (lateBeats >= lastsBeats && now - lateSince >= lastsMs)
      share = Math.max(leastShare, share * 0.5 ** (passed / halvesInMs))
    return share
  }
}

// A thread that is late begins nothing that is unsigned; from half of its share on, nothing that only records.
const limitsFor = (most: number, share: number): Readonly<Record<Kind, number>> => {
  const recording = share <= 1 / 2 ? 0 : Math.ceil(most * share * 0.75)
  return {
    unsigned: share < 1 ? 0 : Math.ceil(most / 2),
    record: recording,
    admin: recording,
    call: Math.ceil(most * share),
  }
}

const calmAfterMs = 5_000

/** Says once that load is shed and once that it is over, and how much it was. */
const makeTeller = () => {
  let shed = new Map<Kind, number>()
  let told = false
  let lastAt = 0
  let begunAt = 0
  let seen = 0
  let total = 0
  return {
    note: (kind: Kind) => {
      total++
      shed.set(kind, (shed.get(kind) ?? 0) + 1)
    },
    kinds: () => kinds.filter((kind) => shed.has(kind)),
    tell: (now: number, { allowed, inWork, lateMs }: Omit<LoadView, "shed">): Effect.Effect<void> => {
      if (total > seen) {
        seen = total
        lastAt = now
        if (told) return Effect.void
        told = true
        begunAt = now
        const state = { in_work: inWork, allowed, late_ms: Math.round(lateMs) }
        return Effect.logWarning("Shedding load", { ...Object.fromEntries(shed), ...state })
      }
      if (!told || now - lastAt < calmAfterMs) return Effect.void
      const counts = Object.fromEntries(shed)
      told = false
      shed = new Map()
      const seconds = Math.round((lastAt - begunAt) / 1_000)
      return Effect.logWarning("Load is no longer shed", { ...counts, for_s: seconds })
    },
  }
}

const make = Effect.fnUntraced(function* (most: number) {
  const clock = yield* theClock
  const share = makeShare()
  const teller = makeTeller()
  let inWork = 0
  let late = 0
  let limits = limitsFor(most, 1)
  let last = monotonicMs(clock)

  const seen = () => ({ inWork, allowed: limits.call, lateMs: late })
  const beat = Effect.suspend(() => {
    const now = monotonicMs(clock)
    const elapsed = now - last
    last = now
    late = Math.max(0, elapsed - beatMs)
    limits = limitsFor(most, share(now, elapsed))
    return teller.tell(now, seen())
  })
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(beatMs), beat)))

  // Counted once it has begun: whoever is interrupted before that has never come.
  const shifted =
    (by: 1 | -1) =>
    <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.suspend(() => {
        let begun = false
        return Effect.onExit(
          Effect.suspend(() => {
            begun = true
            inWork += by
            return work
          }),
          () => {
            if (begun) inWork -= by
            return Effect.void
          },
        )
      })
  const refuses = (kind: Kind) => inWork >= limits[kind]
  const refuse = (kind: Kind) =>
    Effect.suspend(() => {
      teller.note(kind)
      countShed(kind)
      return Effect.fail(new Overloaded())
    })
  const count: LoadShape["count"] = shifted(1)
  return {
    refuses,
    refuse,
    count,
    admit: <A, E, R>(kind: Kind, work: Effect.Effect<A, E, R>) =>
      Effect.suspend((): Effect.Effect<A, E | Overloaded, R> => (refuses(kind) ? refuse(kind) : count(work))),
    aside: shifted(-1),
    pause: () => {
      let state: "before" | "paused" | "over" = "before"
      return {
        begin: () => {
          if (state !== "before") return
          state = "paused"
          inWork--
        },
        end: () => {
          if (state === "paused") inWork++
          state = "over"
        },
      }
    },
    view: () => ({ ...seen(), shed: teller.kinds() }),
  } satisfies LoadShape
})

// Where there is no server, as in a command, there is nobody to turn away.
const unlimited: LoadShape = {
  refuses: () => false,
  refuse: () => Effect.fail(new Overloaded()),
  admit: (_, work) => work,
  count: (work) => work,
  aside: (waiting) => waiting,
  pause: () => ({ begin: () => {}, end: () => {} }),
  view: () => ({ inWork: 0, allowed: Number.POSITIVE_INFINITY, lateMs: 0, shed: [] }),
}

/** The load of this process; without its layer nothing counts, and nobody is turned away. */
export const Load: Context.Reference<LoadShape> = Context.Reference<LoadShape>("switchhook/Load", {
  defaultValue: () => unlimited,
})

/** Counts against `MAX_IN_WORK`, and looks how late the thread is. */
export const loadLayer: Layer.Layer<never, never, Settings> = Layer.effect(
  Load,
  Effect.flatMap(Settings, ({ maxInWork }) => make(maxInWork)),
)

/** Begins the work unless it is too much. */
export const admit = <A, E, R>(
  kind: Kind,
  work: Effect.Effect<A, E, R>,
): Effect.Effect<A, E | Overloaded, R> => Effect.flatMap(Load, (load) => load.admit(kind, work))

/** Work that must not be turned away, and counts. */
export const counted = <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.flatMap(Load, (load) => load.count(work))

/** What admitted work waits for without any load of ours. */
export const aside = <A, E, R>(waiting: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.flatMap(Load, (load) => load.aside(waiting))
