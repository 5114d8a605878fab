// How a worker goes down and comes up again, and how long a place on it stays reserved.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  callsOf,
  capacityOf,
  connectionRefused,
  expireReservations,
  type HealthReport,
  makeWorker,
  probeFailed,
  probeSucceeded,
  type Worker,
} from "../../src/fleet/worker.ts"
import { entryOf, reportOf, workerOf } from "../support/fleet-state.ts"
import { cases } from "../support/properties.ts"

const good = (worker: Worker) => probeSucceeded(worker, reportOf(), 0, 0)
const bad = (worker: Worker) => probeFailed(worker, "no answer", false, 0)
const refused = (worker: Worker) => probeFailed(worker, "ECONNREFUSED", true, 0)

describe("the health of a worker", () => {
  it("is unknown before its first probe, and up with the first that is good", () => {
    const worker = makeWorker(entryOf())
    expect(worker.health).toBe("unknown")
    good(worker)
    expect(worker.health).toBe("up")
  })

  it("is down after two failed probes in a row, not after one", () => {
    const worker = workerOf()
    bad(worker)
    expect(worker.health).toBe("up")
    good(worker)
    bad(worker)
    expect(worker.health).toBe("up")
    bad(worker)
    expect(worker.health).toBe("down")
  })

  it("is down at once where a probe's connection is refused", () => {
    const worker = workerOf()
    refused(worker)
    expect(worker.health).toBe("down")
  })

  it("is down at once where a relay's connection is refused", () => {
    const worker = workerOf()
    good(worker)
    good(worker)
    connectionRefused(worker)
    expect(worker.health).toBe("down")
    good(worker)
    expect(worker.health).toBe("down")
    good(worker)
    expect(worker.health).toBe("up")
  })

  it("is up again after two good probes in a row, not after one", () => {
    const worker = workerOf({ health: "down" })
    good(worker)
    expect(worker.health).toBe("down")
    bad(worker)
    good(worker)
    expect(worker.health).toBe("down")
    good(worker)
    expect(worker.health).toBe("up")
  })

  it("stays unknown after one failed first probe, and is down after two", () => {
    const worker = makeWorker(entryOf())
    bad(worker)
    expect(worker.health).toBe("unknown")
    bad(worker)
    expect(worker.health).toBe("down")
  })

  it("follows from the last two probes, whatever happened before", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom("good", "bad", "refused"), { maxLength: 30 }), (probes) => {
        const worker = makeWorker(entryOf())
        let expected = "unknown"
        probes.forEach((probe, at) => {
          const before = probes[at - 1]
          if (probe === "good") good(worker)
          else if (probe === "bad") bad(worker)
          else refused(worker)
          if (probe === "refused" || (probe === "bad" && before !== undefined && before !== "good"))
            expected = "down"
          if (probe === "good" && (before === "good" || expected === "unknown")) expected = "up"
          expect(worker.health).toBe(expected)
        })
        expect(worker.probes).toBe(probes.length)
      }),
      cases,
    )
  })

  it("keeps what the last probe found out", () => {
    const worker = makeWorker(entryOf())
    probeSucceeded(worker, reportOf({ activeCalls: 3, maxCalls: 9, idempotent: true }), 100, 140)
    expect(worker.report).toEqual(reportOf({ activeCalls: 3, maxCalls: 9, idempotent: true }))
    expect(worker.lastProbe).toEqual({ ok: true, at: 140, why: "" })
    probeFailed(worker, "answers 500", false, 1_200)
    expect(worker.lastProbe).toEqual({ ok: false, at: 1_200, why: "answers 500" })
    probeSucceeded(worker, reportOf(), 2_000, 2_001)
    expect(worker.report).toEqual(reportOf())
  })

  it("comes with a latency that follows slowly and stays between the extremes", () => {
    const worker = makeWorker(entryOf())
    probeSucceeded(worker, reportOf(), 0, 100)
    expect(worker.latencyMs).toBe(100)
    probeSucceeded(worker, reportOf(), 1_000, 1_000)
    expect(worker.latencyMs).toBeGreaterThan(50)
    expect(worker.latencyMs).toBeLessThan(100)
    for (let probe = 0; probe < 50; probe++) probeSucceeded(worker, reportOf(), 0, 10)
    expect(worker.latencyMs).toBeCloseTo(10, 3)
  })
})

describe("a reservation", () => {
  const handed = (handedAt: number | undefined, report: Partial<HealthReport> = { activeCalls: 0 }) => {
    const worker = workerOf({ report })
    worker.reservations.add({ trial: false, handedAt })
    return worker
  }
  const probed = (worker: Worker, begunAt: number, activeCalls: number | undefined) => {
    probeSucceeded(worker, reportOf({ activeCalls }), begunAt, begunAt + 400)
    expireReservations(worker, begunAt + 400)
    return worker.reservations.size
  }

  it("counts as a call beside those that the worker reports", () => {
    expect(callsOf(workerOf({ reserved: 2 }))).toBe(2)
    expect(callsOf(workerOf({ report: { activeCalls: 3 } }))).toBe(3)
    expect(callsOf(workerOf({ reserved: 2, report: { activeCalls: 3 } }))).toBe(5)
  })

  it("goes with a probe begun at least 1 s after the call was handed over, not with an earlier one", () => {
    expect(probed(handed(10_000), 9_000, 1)).toBe(1)
    expect(probed(handed(10_000), 10_000, 1)).toBe(1)
    expect(probed(handed(10_000), 10_999, 1)).toBe(1)
    expect(probed(handed(10_000), 11_000, 1)).toBe(0)
  })

  it("counts from the probe's beginning, however late its answer comes", () => {
    const worker = handed(10_000)
    probeSucceeded(worker, reportOf({ activeCalls: 0 }), 10_900, 11_390)
    expect(worker.reservations.size).toBe(1)
  })

  it("does not go with a probe that fails or says nothing of calls", () => {
    const worker = handed(10_000)
    probeFailed(worker, "no answer", false, 12_000)
    expireReservations(worker, 12_000)
    expect(worker.reservations.size).toBe(1)
    expect(probed(worker, 12_000, undefined)).toBe(1)
  })

  it("stays while the relay is under way, however long that takes", () => {
    expect(probed(handed(undefined), 1_000_000, 1)).toBe(1)
    expect(probed(handed(undefined, {}), 1_000_000, undefined)).toBe(1)
  })

  it("ends after 20 s on a worker that reports no calls, not before", () => {
    const worker = handed(10_000, {})
    expireReservations(worker, 29_999)
    expect(worker.reservations.size).toBe(1)
    expireReservations(worker, 30_000)
    expect(worker.reservations.size).toBe(0)
  })

  it("does not end by time on a worker that reports its calls, also while its probes fail", () => {
    const worker = handed(10_000, { activeCalls: 5 })
    probeFailed(worker, "no answer", false, 100_000)
    expireReservations(worker, 100_000)
    expect(worker.reservations.size).toBe(1)
  })

  it("ends alone: each by its own time", () => {
    const worker = handed(10_000)
    worker.reservations.add({ trial: false, handedAt: 11_500 })
    worker.reservations.add({ trial: false, handedAt: undefined })
    expect(probed(worker, 11_200, 1)).toBe(2)
    expect(probed(worker, 12_600, 2)).toBe(1)
  })
})

describe("the capacity of a worker", () => {
  it("is the smaller of what the operator and the worker say, and unknown where neither says anything", () => {
    expect(capacityOf(workerOf())).toBeUndefined()
    expect(capacityOf(workerOf({ entry: { capacity: 30 } }))).toBe(30)
    expect(capacityOf(workerOf({ report: { maxCalls: 20 } }))).toBe(20)
    expect(capacityOf(workerOf({ entry: { capacity: 30 }, report: { maxCalls: 20 } }))).toBe(20)
    expect(capacityOf(workerOf({ entry: { capacity: 10 }, report: { maxCalls: 20 } }))).toBe(10)
    expect(capacityOf(workerOf({ entry: { capacity: 10 }, report: { maxCalls: 0 } }))).toBe(0)
  })
})
