// The fleet: which workers there are, how they are, and who takes the next call.

import { Context, Data, Deferred, Effect, FiberMap, Layer, Option, Random } from "effect"
import { monotonicMs, theClock } from "../clock.ts"
import { Settings } from "../config.ts"
import { Cache } from "../database/cache.ts"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { query } from "../database/schema.ts"
import { admits, type Breaker, entered, failed, isOpen, succeeded, withdrawn } from "./breaker.ts"
import { loadOf } from "./metric.ts"
import { pick } from "./pick.ts"
import { whyNot } from "./policy.ts"
import { drainedBy, parseDrained, parseRoster, type RosterEntry } from "./roster.ts"
import {
  callsOf,
  capacityOf,
  connectionRefused,
  expireReservations,
  makeWorker,
  probeFailed,
  probeSucceeded,
  type Reservation,
  type Worker,
} from "./worker.ts"
import { WorkerClient } from "./worker-client.ts"

/** The setting `core_fleet` is empty or absent. */
export class NoFleet extends Data.TaggedClass("NoFleet")<{
  readonly considered: ReadonlyArray<Considered>
}> {}

/** There are workers, and none of them may take a call now. */
export class NoHealthyFleet extends Data.TaggedClass("NoHealthyFleet")<{
  readonly considered: ReadonlyArray<Considered>
}> {}

/** One worker as a decision saw it: picked, passed over for a better one, or skipped for the reason given. */
export interface Considered {
  readonly worker: string
  readonly verdict: "picked" | "passed over" | "skipped"
  readonly why: string | undefined
  /** Calls per place, from 0 (idle) to 1 (full). */
  readonly load: number
}

/** How a hand-over to a worker ended, as far as the fleet is concerned. */
export type Result =
  | "accepted"
  | "turned away"
  | "failed"
  | "refused connection"
  | "no answer"
  | "never tried"

/** A worker that has a place kept for a call. Must be ended exactly once, whatever happens. */
export interface Seat {
  readonly name: string
  readonly url: string
  /** The relay begins. */
  readonly begin: Effect.Effect<void>
  readonly end: (result: Result) => Effect.Effect<void>
}

/** A seat, and why this worker. */
export interface Selected {
  readonly seat: Seat
  readonly considered: ReadonlyArray<Considered>
}

/** One worker for an operator and for metrics. */
export interface WorkerView {
  readonly name: string
  readonly url: string
  readonly up: boolean
  readonly whyOut: string | undefined
  /** By the settings or by its own word. */
  readonly draining: boolean
  readonly drainedBySetting: boolean
  readonly health: Worker["health"]
  readonly load: number
  readonly calls: number
  readonly capacity: number | undefined
  readonly inFlight: number
  readonly breaker: Breaker["state"]
  readonly latencyMs: number | undefined
  readonly lastProbe: { readonly ok: boolean; readonly why: string; readonly agoMs: number } | undefined
}

/** What the database says about the fleet. */
interface FleetSettings {
  readonly value: unknown
  readonly drained: unknown
}

const probeEvery = 1_000

export class Fleet extends Context.Service<
  Fleet,
  {
    /**
     * The healthiest worker that is not excluded (by URL), with a place kept on it. Workers that were never
     * probed are probed first where no other will do.
     */
    readonly select: (excluded?: ReadonlySet<string>) => Effect.Effect<Selected, NoFleet | NoHealthyFleet>
    /** A place on this very worker, whatever its state; fails where it is not in the fleet any more. */
    readonly seatOn: (url: string) => Effect.Effect<Option.Option<Seat>>
    /** URLs of the workers that say they may be sent the same request again under the same key. */
    readonly idempotentUrls: () => ReadonlyArray<string>
    readonly view: Effect.Effect<ReadonlyArray<WorkerView>>
    /** False until the setting was read for the first time. */
    readonly known: () => boolean
  }
>()("switchhook/fleet/Fleet") {
  static readonly layerNoDeps = Layer.effect(
    Fleet,
    Effect.gen(function* () {
      const settings = yield* Settings
      const database = yield* Database
      const cache = yield* Cache
      const client = yield* WorkerClient
      const clock = yield* theClock
      const now = () => monotonicMs(clock)
      const workers = new Map<string, Worker>()
      const probing = new Map<string, Deferred.Deferred<void>>()
      const probes = yield* FiberMap.make<string>()

      const probeOnce = Effect.fnUntraced(function* (worker: Worker) {
        const { name, url } = worker.entry
        const done = yield* Deferred.make<void>()
        probing.set(url, done)
        const begunAt = now()
        const before = worker.health
        yield* client.health(url).pipe(
          Effect.match({
            onSuccess: (report) => probeSucceeded(worker, report, begunAt, now()),
            onFailure: ({ refused, why }) => probeFailed(worker, why, refused, now()),
          }),
          Effect.ensuring(
            Effect.suspend(() => {
              probing.delete(url)
              return Deferred.succeed(done, undefined)
            }),
          ),
        )
        expireReservations(worker, now())
        if (before === worker.health) return
        if (worker.health === "up") yield* Effect.logInfo("Worker up", { worker: name, url })
        if (worker.health === "down") {
          yield* Effect.logWarning("Worker down", { worker: name, url, why: worker.lastProbe?.why })
        }
      })

      const probeForever = (worker: Worker) =>
        Effect.gen(function* () {
          const begunAt = now()
          yield* probeOnce(worker)
          yield* Effect.sleep(Math.max(0, begunAt + probeEvery - now()))
        }).pipe(Effect.forever)

      const apply = Effect.fnUntraced(function* (entries: ReadonlyArray<RosterEntry>) {
        const wanted = new Set(entries.map((entry) => entry.url))
        for (const [url, worker] of workers) {
          if (wanted.has(url)) continue
          // Whoever is relaying to it keeps the seat; nobody finds it any more.
          workers.delete(url)
          yield* FiberMap.remove(probes, url)
          yield* Effect.logInfo("Worker left the fleet", { worker: worker.entry.name, url })
        }
        for (const entry of entries) {
          const known = workers.get(entry.url)
          if (known !== undefined) {
            known.entry = entry
            continue
          }
          const worker = makeWorker(entry)
          workers.set(entry.url, worker)
          yield* FiberMap.run(probes, entry.url, probeForever(worker))
          yield* Effect.logInfo("Worker joined the fleet", { worker: entry.name, url: entry.url })
        }
        // The order of the setting is the order in which an operator reads about them.
        for (const entry of entries) {
          const worker = workers.get(entry.url)!
          workers.delete(entry.url)
          workers.set(entry.url, worker)
        }
      })

      let shownProblems = ""
      const applySettings = Effect.fnUntraced(function* (found: FleetSettings | undefined) {
        const { entries, problems } = parseRoster(found?.value)
        if (problems.join("\n") !== shownProblems) {
          shownProblems = problems.join("\n")
          for (const problem of problems) yield* Effect.logError("Left out of the fleet", { problem })
        }
        yield* apply(drainedBy(entries, parseDrained(found?.drained)))
      })

      // In one statement: no worker is in the fleet for a moment before it is known to be drained.
      const read: Effect.Effect<Option.Option<FleetSettings>, DatabaseError> = Effect.map(
        database.run(
          query
            .selectFrom("system_settings")
            .select([
              "value",
              (select) =>
                select
                  .selectFrom("system_settings as other")
                  .select("other.value")
                  .where("other.key", "=", "drained_workers")
                  .as("drained"),
            ])
            .where("key", "=", "core_fleet"),
        ),
        (rows) => Option.fromNullishOr(rows[0]),
      )
      const seed = (value: string) =>
        Effect.andThen(
          database.run(
            query
              .insertInto("system_settings")
              .values({ key: "core_fleet", value: JSON.stringify(value) })
              .onConflict((conflict) => conflict.column("key").doNothing()),
          ),
          read,
        )
      // Whoever changes CORE_FLEET and starts again expects it to count.
      let compared = false
      const tellUnused = (setting: unknown, seeding: string) =>
        Effect.suspend(() => {
          const urls = (value: unknown) => JSON.stringify(parseRoster(value).entries)
          if (compared || urls(setting) === urls(seeding)) return Effect.void
          compared = true
          return Effect.logWarning(
            "CORE_FLEET is not used: the database's setting core_fleet goes before it",
            {
              core_fleet: parseRoster(setting).entries.map(({ url }) => url),
            },
          )
        })
      const load = Effect.gen(function* () {
        const setting = yield* read
        if (Option.isNone(settings.coreFleet)) return setting
        if (Option.isNone(setting)) return yield* seed(settings.coreFleet.value)
        yield* tellUnused(setting.value.value, settings.coreFleet.value)
        return setting
      })
      const followed = yield* cache.follow("system_settings", load, (found) =>
        applySettings(Option.getOrUndefined(found)),
      )

      const takeSeat = (worker: Worker): Seat => {
        // A repetition to its own worker passes an open breaker without being its trial.
        const trial = isOpen(worker.breaker) && admits(worker.breaker, now())
        const reservation: Reservation = { trial, handedAt: undefined }
        worker.reservations.add(reservation)
        if (trial) worker.breaker = entered(worker.breaker)
        let begun = false
        const keep = () => {
          reservation.handedAt = now()
        }
        const free = () => {
          worker.reservations.delete(reservation)
        }
        const fail = () => {
          worker.breaker = failed(worker.breaker, now(), reservation.trial)
        }
        const results: Record<Result, () => void> = {
          accepted: () => {
            keep()
            worker.breaker = succeeded()
          },
          "turned away": () => {
            free()
            worker.breaker = succeeded()
          },
          failed: () => {
            free()
            fail()
          },
          "refused connection": () => {
            free()
            fail()
            connectionRefused(worker)
          },
          "no answer": () => {
            // It may have the call.
            keep()
            fail()
          },
          "never tried": () => {
            free()
            if (reservation.trial) worker.breaker = withdrawn(worker.breaker)
          },
        }
        return {
          name: worker.entry.name,
          url: worker.entry.url,
          begin: Effect.sync(() => {
            begun = true
            worker.inFlight++
          }),
          end: (result) =>
            Effect.suspend(() => {
              const { name, url } = worker.entry
              const wasDown = worker.health === "down"
              const wasOpen = isOpen(worker.breaker)
              results[result]()
              if (begun) worker.inFlight--
              if (!wasOpen && isOpen(worker.breaker))
                return Effect.logWarning("Breaker open", { worker: name, url })
              return !wasDown && worker.health === "down"
                ? Effect.logWarning("Worker down", {
                    worker: name,
                    url,
                    why: "a call's connection was refused",
                  })
                : Effect.void
            }),
        }
      }

      const probeNew = Effect.suspend(() => {
        const fresh = [...workers.values()].filter((worker) => worker.probes === 0)
        return Effect.forEach(
          fresh,
          (worker) => {
            const running = probing.get(worker.entry.url)
            return running === undefined ? probeOnce(worker) : Deferred.await(running)
          },
          { concurrency: "unbounded", discard: true },
        )
      })

      const select = Effect.fnUntraced(function* (excluded: ReadonlySet<string> = new Set()) {
        const random = yield* Random.Random
        const decide = (): Selected | NoFleet | NoHealthyFleet => {
          const skipped: Array<Considered> = []
          const eligible: Array<Worker> = []
          for (const worker of workers.values()) {
            const why = excluded.has(worker.entry.url) ? "already tried" : whyNot(worker, now())
            if (why === undefined) eligible.push(worker)
            else skipped.push({ worker: worker.entry.name, verdict: "skipped", why, load: loadOf(worker) })
          }
          const winner = pick(eligible, () => random.nextDoubleUnsafe())
          if (winner === undefined) {
            return workers.size === 0
              ? new NoFleet({ considered: [] })
              : new NoHealthyFleet({ considered: skipped })
          }
          const considered = eligible.map(
            (worker): Considered => ({
              worker: worker.entry.name,
              verdict: worker === winner ? "picked" : "passed over",
              why: undefined,
              load: loadOf(worker),
            }),
          )
          return { seat: takeSeat(winner), considered: [...considered, ...skipped] }
        }
        let decision = decide()
        if ("_tag" in decision && [...workers.values()].some((worker) => worker.probes === 0)) {
          yield* probeNew
          decision = decide()
        }
        return "_tag" in decision ? yield* Effect.fail(decision) : decision
      })

      return Fleet.of({
        select,
        seatOn: (url) => Effect.sync(() => Option.map(Option.fromNullishOr(workers.get(url)), takeSeat)),
        idempotentUrls: () =>
          [...workers.values()]
            .filter((worker) => worker.report.idempotent)
            .map((worker) => worker.entry.url),
        known: () => followed.current() !== undefined,
        view: Effect.sync(() =>
          [...workers.values()].map((worker): WorkerView => {
            const whyOut = whyNot(worker, now())
            return {
              name: worker.entry.name,
              url: worker.entry.url,
              up: whyOut === undefined,
              whyOut,
              draining: worker.entry.draining || worker.report.draining,
              drainedBySetting: worker.entry.draining,
              health: worker.health,
              load: loadOf(worker),
              calls: callsOf(worker),
              capacity: capacityOf(worker),
              inFlight: worker.inFlight,
              breaker: worker.breaker.state,
              latencyMs: worker.latencyMs,
              lastProbe:
                worker.lastProbe === undefined
                  ? undefined
                  : {
                      ok: worker.lastProbe.ok,
                      why: worker.lastProbe.why,
                      agoMs: now() - worker.lastProbe.at,
                    },
            }
          }),
        ),
      })
    }),
  )

  static readonly layer = Layer.provide(Fleet.layerNoDeps, WorkerClient.layer)
}
