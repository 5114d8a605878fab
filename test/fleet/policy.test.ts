// Which workers may take a call at all, and what an operator is told of the others.

import { describe, expect, it } from "vitest"
import { closedBreaker, entered, failed } from "../../src/fleet/breaker.ts"
import { whyNot } from "../../src/fleet/policy.ts"
import { makeWorker } from "../../src/fleet/worker.ts"
import { entryOf, workerOf } from "../support/fleet-state.ts"

const open = [1, 2, 3].reduce((breaker) => failed(breaker, 0, false), closedBreaker)

describe("a worker may take a call", () => {
  it.each([
    ["it is up and idle", workerOf()],
    ["it has a place left", workerOf({ entry: { capacity: 3 }, reserved: 2 })],
    ["its capacity is unknown, however many calls it has", workerOf({ report: { activeCalls: 10_000 } })],
    ["its last probe failed, but not the one before", workerOf({ badProbesInRow: 1 })],
    ["its breaker has two failures", workerOf({ breaker: { state: "closed", failures: 2 } })],
  ])("where %s", (_, worker) => {
    expect(whyNot(worker, 0)).toBeUndefined()
  })

  it("where its breaker is open and a trial is due, and not before or beside it", () => {
    expect(whyNot(workerOf({ breaker: open }), 4_999)).toBe("breaker open")
    expect(whyNot(workerOf({ breaker: open }), 5_000)).toBeUndefined()
    expect(whyNot(workerOf({ breaker: entered(open) }), 5_000)).toBe("breaker open")
  })
})

describe("a worker is passed by", () => {
  it.each([
    ["draining (setting)", workerOf({ entry: { draining: true } })],
    ["draining (its own word)", workerOf({ report: { draining: true } })],
    ["not probed yet", makeWorker(entryOf())],
    [
      "never healthy: no answer",
      { ...makeWorker(entryOf()), probes: 1, lastProbe: { ok: false, at: 0, why: "no answer" } },
    ],
    ["down", workerOf({ health: "down" })],
    ["down", workerOf({ health: "down", lastProbe: { ok: true, at: 0, why: "" } })],
    [
      "down: ECONNREFUSED",
      workerOf({ health: "down", lastProbe: { ok: false, at: 0, why: "ECONNREFUSED" } }),
    ],
    ["breaker open", workerOf({ breaker: open })],
    ["full (3 of 3)", workerOf({ entry: { capacity: 3 }, reserved: 3 })],
    ["full (3 of 3)", workerOf({ report: { activeCalls: 3, maxCalls: 3 } })],
    ["full (5 of 4)", workerOf({ report: { activeCalls: 3, maxCalls: 4 }, reserved: 2 })],
    ["full (0 of 0)", workerOf({ report: { activeCalls: 0, maxCalls: 0 } })],
  ])("because: %s", (why, worker) => {
    expect(whyNot(worker, 0)).toBe(why)
  })
})
