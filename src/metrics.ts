// What Prometheus sees.

import { Context, Effect, Metric } from "effect"
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

const nowhere = Context.empty()

/**
 * A metric by the values of its labels. Each series is one of its own, made once: to put labels on a metric for every
 * update would cost more than all the rest of it.
 */
const labelled = <Input>(
  makeSeries: (attributes: Record<string, string>) => Metric.Metric<Input, unknown>,
  ...labels: ReadonlyArray<string>
) => {
  const known = new Map<string, Metric.Metric<Input, unknown>>()
  const keyOf = (values: ReadonlyArray<string>) =>
    values.length === 1 ? (values[0] ?? "") : values.join("\n")
  const make = (values: ReadonlyArray<string>) => {
    const attributes = Object.fromEntries(labels.map((label, at) => [label, values[at] ?? ""]))
    const series = makeSeries(attributes)
    known.set(keyOf(values), series)
    return series
  }
  return {
    update: (input: Input, ...values: ReadonlyArray<string>): void =>
      (known.get(keyOf(values)) ?? make(values)).updateUnsafe(input, nowhere),
    forget: (...values: ReadonlyArray<string>): void => {
      const series = known.get(keyOf(values))
      if (series !== undefined) Metric.removeUnsafe(series, nowhere)
      known.delete(keyOf(values))
    },
  }
}

const events = labelled(
  (attributes) =>
    Metric.counter("switchhook_events_total", {
      description: "Webhook requests by event and how they ended.",
      incremental: true,
      attributes,
    }),
  "event",
  "outcome",
)
const dispatches = labelled(
  (attributes) =>
    Metric.counter("switchhook_dispatches_total", {
      description: "Hand-overs by outcome.",
      incremental: true,
      attributes,
    }),
  "outcome",
)
const replays = labelled(
  (attributes) =>
    Metric.counter("switchhook_ledger_replays_total", {
      description: "Deliveries answered from the ledger or from a hand-over under way, by what was known.",
      incremental: true,
      attributes,
    }),
  "known",
)
const stages = labelled(
  (attributes) =>
    Metric.histogram("switchhook_stage_seconds", {
      description: "Seconds spent in each stage of the pipeline.",
      boundaries: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      attributes,
    }),
  "stage",
)
const endedCalls = labelled(
  (attributes) =>
    Metric.counter("switchhook_calls_total", {
      description:
        "Calls that have ended, by status and by who hung up; a call that a reconnect reopens counts once.",
      incremental: true,
      attributes,
    }),
  "status",
  "hung_up_by",
)
const answers = labelled(
  (attributes) =>
    Metric.histogram("switchhook_answer_seconds", {
      description: "Seconds from the caller's join to the first answerer's, by target.",
      boundaries: [0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 180],
      attributes,
    }),
  "target",
)
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
const unwritten = labelled(
  (attributes) =>
    Metric.gauge("switchhook_backlog", {
      description:
        "Records that wait on disk for the database, by kind: claims, and stories of what happened.",
      attributes,
    }),
  "kind",
)
const givenUp = Metric.gauge("switchhook_backlog_dropped", {
  description: "Stories given up since something waits for the database: the journal was full.",
})
const watched = labelled(
  (attributes) =>
    Metric.counter("switchhook_watch_total", {
      description: "Calls and rooms that the watch looked after, by what came of it.",
      incremental: true,
      attributes,
    }),
  "what",
)
const refused = labelled(
  (attributes) =>
    Metric.counter("switchhook_refused_total", {
      description: "Requests and connections turned away before anything was done for them, by reason.",
      incremental: true,
      attributes,
    }),
  "reason",
)
const shed = labelled(
  (attributes) =>
    Metric.counter("switchhook_shed_total", {
      description: "Requests turned away because too much is in work, by kind.",
      incremental: true,
      attributes,
    }),
  "kind",
)
const inWork = Metric.gauge("switchhook_in_work", { description: "Requests and claims in work." })
const inWorkAllowed = Metric.gauge("switchhook_in_work_allowed", {
  description: "How many may be: MAX_IN_WORK, or less while the thread is lastingly late.",
})
const loopLate = Metric.gauge("switchhook_loop_late_seconds", {
  description: "How late the process's thread was when it was last looked at.",
})
const workerGauges = {
  up: labelled(
    (attributes) =>
      Metric.gauge("switchhook_worker_up", {
        description: "1 where the worker may take a call.",
        attributes,
      }),
    "worker",
  ),
  load: labelled(
    (attributes) =>
      Metric.gauge("switchhook_worker_load", {
        description: "Calls per place, reserved ones included.",
        attributes,
      }),
    "worker",
  ),
  inFlight: labelled(
    (attributes) =>
      Metric.gauge("switchhook_worker_in_flight", {
        description: "Relays under way to the worker.",
        attributes,
      }),
    "worker",
  ),
  breaker: labelled(
    (attributes) =>
      Metric.gauge("switchhook_worker_breaker_open", {
        description: "1 where the worker's breaker is open.",
        attributes,
      }),
    "worker",
  ),
}
const buildInfo = labelled(
  (attributes) =>
    Metric.gauge("switchhook_build_info", {
      description: "Always 1; the labels tell the build.",
      attributes,
    }),
  "version",
  "runtime",
)

const labels = new Map<string, string>()

/** The name of a type that says how something ended, as Prometheus labels are written. */
const label = (name: string): string => {
  const known = labels.get(name)
  if (known !== undefined) return known
  const made = name.replace(/\B[A-Z]/g, (letter) => `-${letter}`).toLowerCase()
  labels.set(name, made)
  return made
}

/** Counts a webhook request; an event that LiveKit does not know counts as `other`, none at all as `none`. */
export const countEvent = (event: string | undefined, outcome: string): void => {
  const name = event === undefined ? "none" : knownEvents.has(event) ? event : "other"
  events.update(1, name, label(outcome))
}

export const countDispatch = (outcome: string): void => dispatches.update(1, label(outcome))

export const countReplay = (known: string): void => replays.update(1, label(known))

/** `hungUpBy` is `caller` or `us`. */
export const countEndedCall = (status: string, hungUpBy: string): void =>
  endedCalls.update(1, status, hungUpBy)

/** `target` is `fleet` or `agent`. */
export const countAnswer = (target: string, seconds: number): void => answers.update(seconds, target)

export const countExtraAnswerers = (count: number): void => extraAnswerers.updateUnsafe(count, nowhere)

export const countNewLead = (): void => newLeads.updateUnsafe(1, nowhere)

export const showLiveSessions = (count: number): void => liveSessions.updateUnsafe(count, nowhere)

/** What waits for the database, and how much of it was given up. */
export const showBacklog = (size: {
  readonly claims: number
  readonly stories: number
  readonly dropped: number
}): void => {
  unwritten.update(size.claims, "claim")
  unwritten.update(size.stories, "story")
  givenUp.updateUnsafe(size.dropped, nowhere)
}

/** `what` says what the watch did about a call or a room. */
export const countWatched = (what: string): void => watched.update(1, what)

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

export const countRefused = (reason: RefusedReason): void => refused.update(1, reason)

/** `kind` is `unsigned`, `record`, `admin` or `call`. */
export const countShed = (kind: string): void => shed.update(1, kind)

/** How much is in work. */
export const showLoad = (load: {
  readonly inWork: number
  readonly allowed: number
  readonly lateMs: number
}): void => {
  inWork.updateUnsafe(load.inWork, nowhere)
  inWorkAllowed.updateUnsafe(load.allowed, nowhere)
  loopLate.updateUnsafe(load.lateMs / 1_000, nowhere)
}

const watchStage = <A, E, R>(
  stage: string,
  effect: (elapsedMs: () => number) => Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const startedAt = performance.now()
    const elapsedMs = () => performance.now() - startedAt
    return Effect.onExit(effect(elapsedMs), () => {
      stages.update(elapsedMs() / 1_000, stage)
      return Effect.void
    })
  })

/** Measures a stage that waits for nothing, and says how many milliseconds it took. */
export const timedNow = <A>(stage: string, run: () => A): { readonly value: A; readonly ms: number } => {
  const startedAt = performance.now()
  const value = run()
  const ms = performance.now() - startedAt
  stages.update(ms / 1_000, stage)
  return { value, ms }
}

/** Measures how long a stage takes, however it ends. */
export const timed =
  (stage: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    watchStage(stage, () => effect)

/** Measures a stage like `timed`, and says how many milliseconds it took. */
export const measured =
  (stage: string) =>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
  ): Effect.Effect<{ readonly value: A; readonly ms: number }, E, R> =>
    watchStage(stage, (elapsedMs) => Effect.map(effect, (value) => ({ value, ms: elapsedMs() })))

let shown: ReadonlyArray<string> = []

/** Sets the workers' gauges to what is true now, and forgets workers that are gone. */
export const showWorkers = (workers: ReadonlyArray<WorkerView>): void => {
  const names = workers.map((worker) => worker.name)
  for (const worker of shown.filter((name) => !names.includes(name)))
    for (const gauge of Object.values(workerGauges)) gauge.forget(worker)
  shown = names
  for (const { breaker, inFlight, load, name, up } of workers) {
    workerGauges.up.update(up ? 1 : 0, name)
    workerGauges.load.update(load, name)
    workerGauges.inFlight.update(inFlight, name)
    workerGauges.breaker.update(breaker === "open" ? 1 : 0, name)
  }
}

/** `runtime` is `node` or `deno`, with its version. */
export const showBuild = (version: string, runtime: string): void => buildInfo.update(1, version, runtime)
