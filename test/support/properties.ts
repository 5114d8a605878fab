// How properties run: a thousand cases each, and the same ones every time, unless a seed is asked for.

export const cases = {
  numRuns: 1_000,
  seed: Number(process.env["PROPERTY_SEED"] ?? 20261121),
} as const
