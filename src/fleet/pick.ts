// Pick: how chance enters. The power of two choices (P2C): two at random, the better one wins.

import { better } from "./metric.ts"
import type { Worker } from "./worker.ts"

/** A number from 0 up to, not including, 1. */
export type Chance = () => number

const drawByWeight = (workers: ReadonlyArray<Worker>, chance: Chance): Worker => {
  const total = workers.reduce((sum, worker) => sum + worker.entry.weight, 0)
  let left = chance() * total
  for (const worker of workers) {
    left -= worker.entry.weight
    if (left < 0) return worker
  }
  return workers.at(-1)!
}

/** One of the workers, `undefined` of none. */
export const pick = (workers: ReadonlyArray<Worker>, chance: Chance): Worker | undefined => {
  if (workers.length < 2) return workers[0]
  const first = drawByWeight(workers, chance)
  const second = drawByWeight(
    workers.filter((worker) => worker !== first),
    chance,
  )
  const winner = better(first, second)
  return winner === "chance" ? drawByWeight([first, second], chance) : winner
}
