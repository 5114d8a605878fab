// Metric: which of two workers is better off.

import { callsOf, capacityOf, type Worker } from "./worker.ts"

/** Stands in for a capacity that nobody told, times the worker's weight. */
const assumedCapacity = 100

/** Calls per place: 0 idle, 1 full. */
export const loadOf = (worker: Worker): number =>
  callsOf(worker) / (capacityOf(worker) ?? assumedCapacity * worker.entry.weight)

/** Loads this close (a share of the larger) are as good as equal: chance spreads better than noise. */
const closeEnough = 0.1

/** The better of two, or `"chance"` where neither is. Latency breaks only real ties. */
export const better = (a: Worker, b: Worker): Worker | "chance" => {
  const [loadA, loadB] = [loadOf(a), loadOf(b)]
  if (loadA === loadB) return faster(a, b)
  if (Math.abs(loadA - loadB) <= closeEnough * Math.max(loadA, loadB)) return "chance"
  return loadA < loadB ? a : b
}

const faster = (a: Worker, b: Worker): Worker | "chance" => {
  if (a.latencyMs === undefined || b.latencyMs === undefined || a.latencyMs === b.latencyMs) return "chance"
  return a.latencyMs < b.latencyMs ? a : b
}
