// What is known of one worker, and how each thing that happens to it changes that.

import type { Breaker } from "./breaker.ts"
import { closedBreaker } from "./breaker.ts"
import type { RosterEntry } from "./roster.ts"

/** What a worker said of itself in its last good health answer. */
export interface HealthReport {
  readonly draining: boolean
  readonly activeCalls: number | undefined
  readonly maxCalls: number | undefined
  readonly idempotent: boolean
}

/**
 * A place kept for a call until the worker's own count includes it, so that a burst between two probes
 * spreads. `handedAt` is set once the worker has the call; `trial` where an open breaker let it pass.
 */
export interface Reservation {
  readonly trial: boolean
  handedAt: number | undefined
}

/** One worker; times in milliseconds on the monotonic clock. */
export interface Worker {
  entry: RosterEntry
  health: "unknown" | "up" | "down"
  probes: number
  goodProbesInRow: number
  badProbesInRow: number
  lastProbe: { readonly ok: boolean; readonly at: number; readonly why: string } | undefined
  report: HealthReport
  /** Smoothed time of its health answers; undefined before the first. */
  latencyMs: number | undefined
  breaker: Breaker
  readonly reservations: Set<Reservation>
  inFlight: number
}

const downAfter = 2
const upAfter = 2
const settleMs = 1_000
const unreportedMs = 20_000
const smoothing = 0.3

const nothingReported: HealthReport = {
  draining: false,
  activeCalls: undefined,
  maxCalls: undefined,
  idempotent: false,
}

export const makeWorker = (entry: RosterEntry): Worker => ({
  entry,
  health: "unknown",
  probes: 0,
  goodProbesInRow: 0,
  badProbesInRow: 0,
  lastProbe: undefined,
  report: nothingReported,
  latencyMs: undefined,
  breaker: closedBreaker,
  reservations: new Set(),
  inFlight: 0,
})

/** A probe begun at `begunAt` was answered with 2xx at `now`. */
export const probeSucceeded = (worker: Worker, report: HealthReport, begunAt: number, now: number): void => {
  worker.probes++
  worker.badProbesInRow = 0
  worker.goodProbesInRow++
  worker.lastProbe = { ok: true, at: now, why: "" }
  if (worker.health === "unknown" || worker.goodProbesInRow >= upAfter) worker.health = "up"
  worker.report = report
  const took = now - begunAt
  worker.latencyMs =
    worker.latencyMs === undefined ? took : worker.latencyMs + smoothing * (took - worker.latencyMs)
  if (report.activeCalls === undefined) return
  for (const reservation of worker.reservations) {
    if (reservation.handedAt !== undefined && begunAt >= reservation.handedAt + settleMs) {
      worker.reservations.delete(reservation)
    }
  }
}

/** A probe failed; `refused` where nobody listens at the worker's address any more. */
export const probeFailed = (worker: Worker, why: string, refused: boolean, now: number): void => {
  worker.probes++
  worker.goodProbesInRow = 0
  worker.badProbesInRow++
  worker.lastProbe = { ok: false, at: now, why }
  if (refused || worker.badProbesInRow >= downAfter) worker.health = "down"
}

/** A relay found nobody listening: as good as a refused probe, and a second earlier. */
export const connectionRefused = (worker: Worker): void => {
  worker.goodProbesInRow = 0
  worker.health = "down"
}

/** Forgets reservations that no probe will ever clear, because the worker does not report its calls. */
export const expireReservations = (worker: Worker, now: number): void => {
  if (worker.report.activeCalls !== undefined) return
  for (const reservation of worker.reservations) {
    if (reservation.handedAt !== undefined && now >= reservation.handedAt + unreportedMs) {
      worker.reservations.delete(reservation)
    }
  }
}

/** Calls it has as far as anybody knows: what it reports and what was handed over since. */
export const callsOf = (worker: Worker): number => (worker.report.activeCalls ?? 0) + worker.reservations.size

/** The smaller of what the operator and the worker say; undefined where neither says anything. */
export const capacityOf = (worker: Worker): number | undefined => {
  const { capacity } = worker.entry
  const { maxCalls } = worker.report
  if (capacity === undefined || maxCalls === undefined) return capacity ?? maxCalls
  return Math.min(capacity, maxCalls)
}
