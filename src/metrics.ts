// What Prometheus sees.

import { type Clock, Effect, Metric } from "effect"
import type { WorkerView } from "./fleet/fleet.ts"

// LiveKit's own names; whatever else comes is one series, or a hostile sender could make millions.
const knownEvents = new Set([
  "room_started",
  "room_finished",
  "participant_joined",
  "participant_left",
  "participant_connection_aborted",
  "track_published",
  "track_unpublished",
  "egress_started",
  "egress_updated",
  "egress_ended",
  "ingress_started",
  "ingress_ended",
  "agent_job_started",
  "agent_job_ended",
])

const events = Metric.counter("switchhook_events_total", {
  description: "Webhook requests by event and how they ended.",
  incremental: true,
})
const dispatches = Metric.counter("switchhook_dispatches_total", {
  description: "Hand-overs by outcome.",
  incremental: true,
})
const replays = Metric.counter("switchhook_ledger_replays_total", {
  description: "Deliveries answered from the ledger or from a hand-over under way, by what was known.",
  incremental: true,
})
const stages = Metric.histogram("switchhook_stage_seconds", {
  description: "Seconds spent in each stage of the pipeline.",
  boundaries: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
})
const endedCalls = Metric.counter("switchhook_calls_total", {
  description:
    "Calls that have ended, by status and by who hung up; a call that a reconnect reopens counts once.",
  incremental: true,
})
const answers = Metric.histogram("switchhook_answer_seconds", {
  description: "Seconds from the caller's join to the first answerer's, by target.",
  boundaries: [0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 180],
})
const extraAnswerers = Metric.counter("switchhook_extra_answerers_total", {
  description: "Answerers beyond the first of a call.",
  incremental: true,
})
const newLeads = Metric.counter("switchhook_leads_created_total", {
  description: "Callers who were new to their campaign.",
  incremental: true,
})
const liveSessions = Metric.gauge("switchhook_sessions_live", {
  description: "Rooms that have started and not finished, in the database that all replicas share.",
})
const unwritten = Metric.gauge("switchhook_backlog", {
  description: "Records that wait on disk for the database, by kind: claims, and stories of what happened.",
})
const givenUp = Metric.gauge("switchhook_backlog_dropped", {
  description: "Stories given up since something waits for the database: the journal was full.",
})
const watched = Metric.counter("switchhook_watch_total", {
  description: "Calls and rooms that the watch looked after, by what came of it.",
  incremental: true,
})
const refused = Metric.counter("switchhook_refused_total", {
  description: "Requests and connections turned away before anything was done for them, by reason.",
  incremental: true,
})
const shed = Metric.counter("switchhook_shed_total", {
  description: "Requests turned away because too much is in work, by kind.",
  incremental: true,
})
const inWork = Metric.gauge("switchhook_in_work", { description: "Requests and claims in work." })
const inWorkAllowed = Metric.gauge("switchhook_in_work_allowed", {
  description: "How many may be: MAX_IN_WORK, or less while the thread is lastingly late.",
})
const loopLate = Metric.gauge("switchhook_loop_late_seconds", {
  description: "How late the process's thread was when it was last looked at.",
})
const workerGauges = {
  up: Metric.gauge("switchhook_worker_up", { description: "1 where the worker may take a call." }),
  load: Metric.gauge("switchhook_worker_load", { description: "Calls per place, reserved ones included." }),
  inFlight: Metric.gauge("switchhook_worker_in_flight", { description: "Relays under way to the worker." }),
  breaker: Metric.gauge("switchhook_worker_breaker_open", {
    description: "1 where the worker's breaker is open.",
  }),
}
const buildInfo = Metric.gauge("switchhook_build_info", {
  description: "Always 1; the labels tell the build.",
})

// The names of the types that say how something ended, as Prometheus labels are written.
const label = (name: string) => name.replace(/\B[A-Z]/g, (letter) => `-${letter}`).toLowerCase()

/** Counts a webhook request; an event that LiveKit does not know counts as `other`, none at all as `none`. */
export const countEvent = (event: string | undefined, outcome: string): Effect.Effect<void> =>
  Metric.update(
    Metric.withAttributes(events, {
      event: event === undefined ? "none" : knownEvents.has(event) ? event : "other",
      outcome: label(outcome),
    }),
    1,
  )

export const countDispatch = (outcome: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(dispatches, { outcome: label(outcome) }), 1)

export const countReplay = (known: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(replays, { known: label(known) }), 1)

/** `hungUpBy` is `caller` or `us`. */
export const countEndedCall = (status: string, hungUpBy: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(endedCalls, { status, hung_up_by: hungUpBy }), 1)

/** `target` is `fleet` or `agent`. */
export const countAnswer = (target: string, seconds: number): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(answers, { target }), seconds)

export const countExtraAnswerers = (count: number): Effect.Effect<void> =>
  Metric.update(extraAnswerers, count)

export const countNewLead: Effect.Effect<void> = Metric.update(newLeads, 1)

export const showLiveSessions = (count: number): Effect.Effect<void> => Metric.update(liveSessions, count)

/** What waits for the database, and how much of it was given up. */
export const showBacklog = Effect.fnUntraced(function* (size: {
  readonly claims: number
  readonly stories: number
  readonly dropped: number
}) {
  yield* Metric.update(Metric.withAttributes(unwritten, { kind: "claim" }), size.claims)
  yield* Metric.update(Metric.withAttributes(unwritten, { kind: "story" }), size.stories)
  yield* Metric.update(givenUp, size.dropped)
})

/** `what` says what the watch did about a call or a room. */
export const countWatched = (what: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(watched, { what }), 1)

/** Why a request, or a connection, was turned away. */
export type RefusedReason =
  | "source"
  | "rate"
  | "timeout"
  | "headers"
  | "size"
  | "bodies"
  | "malformed"
  | "connections"
  | "source-connections"

export const countRefused = (reason: RefusedReason): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(refused, { reason }), 1)

/** `kind` is `unsigned`, `record`, `admin` or `call`. */
export const countShed = (kind: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(shed, { kind }), 1)

/** How much is in work. */
export const showLoad = Effect.fnUntraced(function* (load: {
  readonly inWork: number
  readonly allowed: number
  readonly lateMs: number
}) {
  yield* Metric.update(inWork, load.inWork)
  yield* Metric.update(inWorkAllowed, load.allowed)
  yield* Metric.update(loopLate, load.lateMs / 1_000)
})

/** Measures how long a stage takes, however it ends. */
export const timed =
  (stage: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.clockWith((clock: Clock.Clock) => {
      const startedAt = clock.monotonicTimeNanosUnsafe()
      return Effect.onExit(effect, () =>
        Metric.update(
          Metric.withAttributes(stages, { stage }),
          Number(clock.monotonicTimeNanosUnsafe() - startedAt) / 1e9,
        ),
      )
    })

/** Measures a stage like `timed`, and says how many milliseconds it took. */
export const measured =
  (stage: string) =>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
  ): Effect.Effect<{ readonly value: A; readonly ms: number }, E, R> =>
    Effect.clockWith((clock: Clock.Clock) => {
      const startedAt = clock.monotonicTimeNanosUnsafe()
      return Effect.map(timed(stage)(effect), (value) => ({
        value,
        ms: Number(clock.monotonicTimeNanosUnsafe() - startedAt) / 1e6,
      }))
    })

let shown: ReadonlyArray<string> = []

/** Sets the workers' gauges to what is true now, and forgets workers that are gone. */
export const showWorkers = Effect.fnUntraced(function* (workers: ReadonlyArray<WorkerView>) {
  const names = workers.map((worker) => worker.name)
  for (const worker of shown.filter((name) => !names.includes(name))) {
    for (const gauge of Object.values(workerGauges))
      yield* Metric.remove(Metric.withAttributes(gauge, { worker }))
  }
  shown = names
  for (const { breaker, inFlight, load, name: worker, up } of workers) {
    yield* Metric.update(Metric.withAttributes(workerGauges.up, { worker }), up ? 1 : 0)
    yield* Metric.update(Metric.withAttributes(workerGauges.load, { worker }), load)
    yield* Metric.update(Metric.withAttributes(workerGauges.inFlight, { worker }), inFlight)
    yield* Metric.update(Metric.withAttributes(workerGauges.breaker, { worker }), breaker === "open" ? 1 : 0)
  }
})

/** `runtime` is `node` or `deno`, with its version. */
export const showBuild = (version: string, runtime: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(buildInfo, { version, runtime }), 1)
