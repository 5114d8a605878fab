// Workers in any state, for tests of the rules that look at one.

import type { RosterEntry } from "../../src/fleet/roster.ts"
import { type HealthReport, makeWorker, type Reservation, type Worker } from "../../src/fleet/worker.ts"

export const entryOf = (entry: Partial<RosterEntry> = {}): RosterEntry => ({
  url: "http://worker-1:8080",
  name: "worker-1",
  capacity: undefined,
  weight: 1,
  draining: false,
  ...entry,
})

export const reportOf = (report: Partial<HealthReport> = {}): HealthReport => ({
  draining: false,
  activeCalls: undefined,
  maxCalls: undefined,
  idempotent: false,
  ...report,
})

/** A worker that is up and idle, but for the changes. */
export const workerOf = (
  changes: Partial<Omit<Worker, "entry" | "report" | "reservations">> & {
    readonly entry?: Partial<RosterEntry>
    readonly report?: Partial<HealthReport>
    readonly reserved?: number
  } = {},
): Worker => {
  const { entry, report, reserved = 0, ...rest } = changes
  const reservations = Array.from(
    { length: reserved },
    (): Reservation => ({ trial: false, handedAt: undefined }),
  )
  return {
    ...makeWorker(entryOf(entry)),
    health: "up",
    probes: 1,
    report: reportOf(report),
    reservations: new Set(reservations),
    ...rest,
  }
}
