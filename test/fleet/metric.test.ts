// Which of two workers is better off.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { better, loadOf } from "../../src/fleet/metric.ts"
import { workerOf } from "../support/fleet-state.ts"
import { cases } from "../support/properties.ts"

const loaded = (calls: number, capacity: number, latencyMs?: number) =>
  workerOf({ entry: { capacity }, report: { activeCalls: calls }, latencyMs })

describe("the load of a worker", () => {
  it("is its calls, reserved ones included, per place", () => {
    expect(loadOf(loaded(0, 10))).toBe(0)
    expect(loadOf(loaded(5, 10))).toBe(0.5)
    expect(loadOf(loaded(10, 10))).toBe(1)
    expect(
      loadOf(workerOf({ entry: { capacity: 10 }, report: { activeCalls: 2, maxCalls: 8 }, reserved: 2 })),
    ).toBe(0.5)
  })

  it("is measured by its weight where nobody told a capacity, so that twice the weight takes twice the calls", () => {
    const light = workerOf({ reserved: 10 })
    const heavy = workerOf({ reserved: 20, entry: { weight: 2 } })
    expect(loadOf(light)).toBe(loadOf(heavy))
    expect(loadOf(light)).toBeGreaterThan(0)
  })

  it("is the same whoever counts the calls", () => {
    const count = fc.nat(200)
    fc.assert(
      fc.property(count, count, fc.integer({ min: 1, max: 500 }), (reported, reserved, capacity) => {
        const worker = workerOf({ entry: { capacity }, report: { activeCalls: reported }, reserved })
        expect(loadOf(worker)).toBeCloseTo((reported + reserved) / capacity, 9)
      }),
      cases,
    )
  })
})

describe("of two workers", () => {
  it("the one with less load is better, by share and not by number of calls", () => {
    const large = loaded(30, 100)
    const small = loaded(5, 10)
    expect(better(large, small)).toBe(large)
    expect(better(small, large)).toBe(large)
  })

  it("an idle one is better than any other", () => {
    const idle = loaded(0, 1)
    const busy = loaded(1, 1_000)
    expect(better(idle, busy)).toBe(idle)
    expect(better(busy, idle)).toBe(idle)
  })

  it("neither is better within 10 % of the larger load, whatever their latency", () => {
    expect(better(loaded(90, 100, 1), loaded(100, 100, 900))).toBe("chance")
    expect(better(loaded(91, 100, 900), loaded(100, 100, 1))).toBe("chance")
    const lower = loaded(89, 100, 900)
    expect(better(lower, loaded(100, 100, 1))).toBe(lower)
  })

  it("the faster one is better on an exact tie only", () => {
    const fast = loaded(5, 10, 20)
    const slow = loaded(50, 100, 40)
    expect(better(fast, slow)).toBe(fast)
    expect(better(slow, fast)).toBe(fast)
    expect(better(fast, loaded(51, 100, 40))).toBe("chance")
  })

  it("neither is better on a tie with the same or unknown latency", () => {
    expect(better(loaded(5, 10, 20), loaded(5, 10, 20))).toBe("chance")
    expect(better(loaded(5, 10, 20), loaded(5, 10))).toBe("chance")
    expect(better(loaded(5, 10), loaded(5, 10))).toBe("chance")
  })

  it("the answer does not depend on who is named first", () => {
    const worker = fc
      .record({
        calls: fc.nat(60),
        capacity: fc.constantFrom(10, 20, 50, 60),
        latencyMs: fc.option(fc.nat(5), { nil: undefined }),
      })
      .map(({ calls, capacity, latencyMs }) => loaded(calls, capacity, latencyMs))
    fc.assert(
      fc.property(worker, worker, (a, b) => {
        expect(better(a, b)).toBe(better(b, a))
      }),
      cases,
    )
  })
})
