// Policy: which workers may take a call at all.

import { admits } from "./breaker.ts"
import { callsOf, capacityOf, type Worker } from "./worker.ts"

/** Why the worker gets no call at `now` (ms), or `undefined` where it may. */
export const whyNot = (worker: Worker, now: number): string | undefined => {
  if (worker.entry.draining) return "draining (setting)"
  if (worker.health === "unknown")
    return worker.probes === 0 ? "not probed yet" : `never healthy${because(worker)}`
  if (worker.health === "down") return `down${because(worker)}`
  if (worker.report.draining) return "draining (its own word)"
  if (!admits(worker.breaker, now)) return "breaker open"
  const capacity = capacityOf(worker)
  if (capacity !== undefined && callsOf(worker) >= capacity) return `full (${callsOf(worker)} of ${capacity})`
  return undefined
}

const because = (worker: Worker) =>
  worker.lastProbe === undefined || worker.lastProbe.ok ? "" : `: ${worker.lastProbe.why}`
