// Every scenario of `npm run chaos`, shortened: fewer calls, on a faster clock.

import { describe, expect, inject, it } from "vitest"
import { playScenario } from "./players.ts"
import { scenarios } from "./scenarios.ts"

const wishes = { calls: 40, seconds: 6, scale: 3, seed: 1, departure: 3 }

describe.concurrent("no call is given to two or forgotten, and no row is missing, when:", {
  timeout: 120_000,
}, () => {
  it.each(scenarios.map(({ name, what }) => [name, what] as const))("%s (%s)", async (name) => {
    const result = await playScenario(name, inject("postgres"), wishes)
    expect(result).toMatchObject({ violations: [], faults: [], calls: wishes.calls })
    expect(result.dispatched).toBeGreaterThan(wishes.calls / 2)
  })
})
