// How chance enters the choice: the power of two choices, by weight.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { loadOf } from "../../src/fleet/metric.ts"
import { type Chance, pick } from "../../src/fleet/pick.ts"
import type { Worker } from "../../src/fleet/worker.ts"
import { workerOf } from "../support/fleet-state.ts"
import { cases } from "../support/properties.ts"

/** The same numbers for the same seed (mulberry32). */
const seeded = (seed: number): Chance => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

const seeds = [1, 2, 3, 4, 5]

const counts = (
  workers: ReadonlyArray<Worker>,
  times: number,
  chance: Chance,
  picked: (worker: Worker) => void = () => {},
) => {
  const found = new Map(workers.map((worker) => [worker, 0]))
  for (let time = 0; time < times; time++) {
    const worker = pick(workers, chance)!
    found.set(worker, found.get(worker)! + 1)
    picked(worker)
  }
  return workers.map((worker) => found.get(worker)!)
}

const many = (count: number, changes: (at: number) => Parameters<typeof workerOf>[0] = () => ({})) =>
  Array.from({ length: count }, (_, at) => workerOf(changes(at)))

describe("the pick", () => {
  it("of none is nobody, and of one is that one", () => {
    const only = workerOf({ report: { activeCalls: 99 } })
    expect(pick([], seeded(1))).toBeUndefined()
    expect(pick([only], seeded(1))).toBe(only)
  })

  it("of two is always the better one", () => {
    const [idle, busy] = [workerOf(), workerOf({ reserved: 50 })]
    for (const seed of seeds) {
      expect(counts([idle, busy], 200, seeded(seed))).toEqual([200, 0])
      expect(counts([busy, idle], 200, seeded(seed))).toEqual([0, 200])
    }
  })

  it("of two within 10 % is left to chance", () => {
    const workers = [workerOf({ report: { activeCalls: 95 } }), workerOf({ report: { activeCalls: 100 } })]
    for (const seed of seeds) {
      const [first, second] = counts(workers, 1_000, seeded(seed))
      expect(first).toBeGreaterThan(400)
      expect(second).toBeGreaterThan(400)
    }
  })

  it("of two with exactly the same load is the faster one", () => {
    const workers = [workerOf({ reserved: 3, latencyMs: 30 }), workerOf({ reserved: 3, latencyMs: 10 })]
    for (const seed of seeds) expect(counts(workers, 200, seeded(seed))).toEqual([0, 200])
  })

  it("of two with nearly the same load is not decided by latency", () => {
    const workers = [
      workerOf({ report: { activeCalls: 100 }, latencyMs: 500 }),
      workerOf({ report: { activeCalls: 101 }, latencyMs: 1 }),
    ]
    for (const seed of seeds) {
      for (const count of counts(workers, 1_000, seeded(seed))) expect(count).toBeGreaterThan(400)
    }
  })

  it("never falls on the worst of many, and not on the best every time", () => {
    const workers = many(5, (at) => ({ report: { activeCalls: (at + 1) * 10 } }))
    for (const seed of seeds) {
      const found = counts(workers, 1_000, seeded(seed))
      expect(found[4]).toBe(0)
      // Two of five, the best among them: 40 %. So a worker that looks idle does not get everything.
      expect(found[0]).toBeGreaterThan(300)
      expect(found[0]).toBeLessThan(500)
      expect(found[1]).toBeGreaterThan(found[2]!)
      expect(found[2]).toBeGreaterThan(found[3]!)
    }
  })

  it("spreads equal workers evenly", () => {
    for (const seed of seeds) {
      for (const count of counts(many(4), 4_000, seeded(seed))) {
        expect(count).toBeGreaterThan(850)
        expect(count).toBeLessThan(1_150)
      }
    }
  })

  it("follows the weights where loads are equal", () => {
    const workers = [workerOf({ entry: { weight: 3 } }), workerOf({ entry: { weight: 1 } })]
    for (const seed of seeds) {
      const [heavy] = counts(workers, 4_000, seeded(seed))
      expect(heavy).toBeGreaterThan(2_850)
      expect(heavy).toBeLessThan(3_150)
    }
  })

  it("gives a worker of three times the weight three times the calls where no capacity is known", () => {
    const workers = [workerOf({ entry: { weight: 3 } }), workerOf({ entry: { weight: 1 } })]
    for (const seed of seeds) {
      const [heavy, light] = counts(workers, 400, seeded(seed), (worker) => {
        worker.reservations.add({ trial: false, handedAt: undefined })
      })
      expect(heavy).toBeGreaterThan(270)
      expect(light).toBeGreaterThan(70)
    }
  })

  it("spreads a burst by the places that it takes itself, so that chance alone decides little", () => {
    for (const seed of seeds) {
      const workers = many(8)
      counts(workers, 800, seeded(seed), (worker) => {
        worker.reservations.add({ trial: false, handedAt: undefined })
      })
      for (const { reservations } of workers) expect(Math.abs(reservations.size - 100)).toBeLessThan(20)
    }
  })

  it("is always one of the workers and never clearly worse than all others, whatever chance says", () => {
    const worker = fc
      .record({
        reserved: fc.nat(30),
        capacity: fc.integer({ min: 1, max: 40 }),
        weight: fc.double({ min: 1e-300, max: 1e300, noNaN: true }),
      })
      .map(({ capacity, reserved, weight }) => workerOf({ reserved, entry: { capacity, weight } }))
    const chance = fc.oneof(
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      fc.constantFrom(0, 1 - 2 ** -53),
    )
    fc.assert(
      fc.property(
        fc.array(worker, { minLength: 2, maxLength: 8 }),
        fc.tuple(chance, chance, chance),
        (workers, draws) => {
          let draw = 0
          const picked = pick(workers, () => draws[draw++ % draws.length]!)!
          expect(workers).toContain(picked)
          const others = workers.filter((other) => other !== picked).map(loadOf)
          expect(loadOf(picked) * 0.9).toBeLessThanOrEqual(Math.max(...others))
        },
      ),
      cases,
    )
  })
})
