// Whether a service's memory is flat: by what is left after collecting its garbage, and by what it holds in all.

import { fileURLToPath } from "node:url"

/** The module that makes a service say it, to be preloaded. */
export const heapModule: string = fileURLToPath(new URL("./heap.ts", import.meta.url))

/** After so many cases: what is left of the heap once its garbage is collected, and all that is resident; in bytes. */
export interface Memory {
  readonly cases: number
  readonly heap: number
  readonly rss: number
}

const median = (values: ReadonlyArray<number>) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

const mib = 1024 * 1024
// What begins with a run, and what a busy moment leaves, is no trend.
const allowed = { heap: { share: 0.15, bytes: 8 * mib }, rss: { share: 0.3, bytes: 50 * mib } } as const

/** What grew from the third to the last quarter by more than chance explains. */
export const memoryGrowth = (samples: ReadonlyArray<Memory>): ReadonlyArray<string> => {
  const quarter = Math.floor(samples.length / 4)
  if (quarter < 2) return [`${samples.length} samples of the memory are too few`]
  return (["heap", "rss"] as const).flatMap((what) => {
    const values = samples.map((sample) => sample[what])
    const before = median(values.slice(-2 * quarter, -quarter))
    const after = median(values.slice(-quarter))
    const { bytes, share } = allowed[what]
    return after - before > Math.max(before * share, bytes)
      ? [`${what} grows: from ${(before / mib).toFixed(1)} to ${(after / mib).toFixed(1)} MiB`]
      : []
  })
}
