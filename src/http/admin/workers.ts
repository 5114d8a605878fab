// Workers: how they are, and draining.

import { Effect, Schedule } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { settingsStatement } from "../../database/system-settings.ts"
import { Fleet, type WorkerView } from "../../fleet/fleet.ts"
import { drainStatement, undrainStatement } from "../../fleet/fleet-settings.ts"
import { parseRoster, type RosterEntry } from "../../fleet/roster.ts"
import { AdminApi } from "./api/api.ts"
import { Conflict, NotFound } from "./api/problems.ts"
import { makeStore } from "./store.ts"

const stateOf = (view: WorkerView): "up" | "full" | "tripped" | "draining" | "down" | "unknown" => {
  if (view.up) return "up"
  if (view.draining) return "draining"
  if (view.health !== "up") return view.health
  return view.breaker === "open" ? "tripped" : "full"
}

const shown = (view: WorkerView) => ({
  name: view.name,
  url: view.url,
  state: stateOf(view),
  why_out: view.whyOut ?? null,
  draining: view.draining,
  load: view.load,
  calls: view.calls,
  capacity: view.capacity ?? null,
  in_flight: view.inFlight,
  breaker: view.breaker,
  last_probe:
    view.lastProbe === undefined
      ? null
      : {
          ok: view.lastProbe.ok,
          at: new Date(Date.now() - view.lastProbe.agoMs),
          why: view.lastProbe.why || null,
        },
  latency_ms: view.latencyMs === undefined ? null : Math.round(view.latencyMs * 100) / 100,
})

const noWorkerIn = (entries: ReadonlyArray<RosterEntry>) => {
  const names = entries.map(({ name }) => name)
  const known = names.length === 0 ? "the fleet is empty" : `the fleet has ${names.join(", ")}`
  return Effect.fail(new NotFound({ detail: `No such worker: ${known}` }))
}

// NOTIFY takes milliseconds; a replica that does not hear it finds the change by polling.
const heedWithin = "3 seconds"

export const workersHandlers = HttpApiBuilder.group(
  AdminApi,
  "workers",
  Effect.fnUntraced(function* (handlers) {
    const fleet = yield* Fleet
    const store = yield* makeStore
    const roster = Effect.map(
      store.many(settingsStatement(["core_fleet"])),
      (rows) => parseRoster(rows[0]?.value).entries,
    )
    // Whoever is told that a worker is drained must not see it get another call from here.
    const heeded = (name: string, drained: boolean) =>
      Effect.map(fleet.view, (views) =>
        views.every((view) => view.name !== name || view.drainedBySetting === drained),
      ).pipe(
        Effect.repeat({ until: (done) => done, schedule: Schedule.spaced("10 millis") }),
        Effect.timeoutOption(heedWithin),
      )
    return handlers.handleAll({
      list: () => Effect.map(fleet.view, (views) => ({ items: views.map(shown) })),
      drain: Effect.fnUntraced(function* ({ params: { name } }) {
        const all = yield* roster
        if (!all.some((entry) => entry.name === name)) return yield* noWorkerIn(all)
        yield* store.many(drainStatement(name))
        yield* heeded(name, true)
        yield* Effect.logInfo("Worker drained", { worker: name })
        return { name, drained: true }
      }),
      undrain: Effect.fnUntraced(function* ({ params: { name } }) {
        const all = yield* roster
        const entries = all.filter((entry) => entry.name === name)
        const rows = yield* store.many(undrainStatement(name))
        // One that has left the fleet can still be on the list.
        if (entries.length === 0 && rows.length === 0) return yield* noWorkerIn(all)
        if (entries.some((entry) => entry.draining)) {
          const detail = "core_fleet: it says that this worker is draining, so it has to be changed there"
          return yield* new Conflict({ field: "core_fleet", detail })
        }
        yield* heeded(name, false)
        yield* Effect.logInfo("Worker undrained", { worker: name })
        return { name, drained: false }
      }),
    })
  }),
)
