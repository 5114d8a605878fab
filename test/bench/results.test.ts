// What the rounds of a measurement come to.

import { expect, it } from "vitest"
import type { Round } from "./measure.ts"
import { ratioOf, resultOf } from "./results.ts"

const round = (rate: number, faults: ReadonlyArray<string> = []): Round => ({
  rate,
  connections: 8,
  latency: { p50: 1, p99: rate, p999: 3 },
  lateP99: 0,
  cpuMsPerEvent: 0.5,
  busy: 0.9,
  memory: { residentMiB: 100, peakMiB: 120 },
  startMs: 400,
  faults,
})

it("takes the median of each number", () => {
  const { median } = resultOf("a", "node", [round(10), round(1_000), round(30)])
  expect([median?.rate, median?.latency.p99]).toEqual([30, 30])
  expect(resultOf("a", "node", [round(10), round(20)]).median?.rate).toBe(15)
})

it("gives no number where one round went wrong", () => {
  const failed = resultOf("a", "node", [round(10), round(20, ["1 × 503"]), new Error("ended")])
  expect(failed.median).toBeUndefined()
  expect(failed.faults).toEqual(["1 × 503", "ended"])
})

it("compares with bare at the same work, where both did it", () => {
  const bare = resultOf("a", "bare", [round(100)])
  const elsewhere = resultOf("b", "bare", [round(50)])
  const node = resultOf("a", "node", [round(120)])
  const broken = resultOf("a", "deno", [round(120, ["rows: 0 instead of 1"])])
  const all = [elsewhere, bare, node, broken]
  expect(all.map((one) => ratioOf(all, one))).toEqual([1, 1, 1.2, undefined])
  expect(ratioOf([node], node)).toBeUndefined()
})
