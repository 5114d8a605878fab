// Chance that can be repeated: the same seed, the same plan.

export interface Random {
  /** From 0 up to, and without, 1. */
  readonly next: () => number
  /** A whole number of `low` to `high`, both included. */
  readonly between: (low: number, high: number) => number
  /** True in that share of all cases. */
  readonly chance: (share: number) => boolean
  readonly pick: <A>(from: ReadonlyArray<A>) => A
}

/** A stream of its own for each name, so that one more draw in one place changes nothing elsewhere. */
export const randomOf = (seed: number, name: string): Random => {
  let state = [...name].reduce(
    (sum, char) => Math.imul(sum ^ char.charCodeAt(0), 0x01000193),
    seed ^ 0x811c9dc5,
  )
  // mulberry32
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  const between = (low: number, high: number) => low + Math.floor(next() * (high - low + 1))
  return {
    next,
    between,
    chance: (share) => next() < share,
    pick: (from) => from[between(0, from.length - 1)]!,
  }
}
