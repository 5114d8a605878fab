// The breaker for relays: when it opens, whom it lets try, and how its pauses grow.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  admits,
  type Breaker,
  closedBreaker,
  entered,
  failed,
  isOpen,
  succeeded,
  withdrawn,
} from "../../src/fleet/breaker.ts"
import { cases } from "../support/properties.ts"

const failures = (count: number, now = 0): Breaker =>
  Array.from({ length: count }).reduce<Breaker>((breaker) => failed(breaker, now, false), closedBreaker)

/** The trial at `now` fails. */
const failedTrial = (breaker: Breaker, now: number) => failed(entered(breaker), now, true)

describe("the breaker", () => {
  it("admits everybody while it is closed, also after one and two failures", () => {
    for (const count of [0, 1, 2]) {
      const breaker = failures(count)
      expect(isOpen(breaker)).toBe(false)
      expect(admits(breaker, 0)).toBe(true)
      expect(admits(entered(breaker), 0)).toBe(true)
    }
  })

  it("opens with the third failure in a row", () => {
    expect(isOpen(failures(3))).toBe(true)
    expect(admits(failures(3), 0)).toBe(false)
  })

  it("counts only failures in a row", () => {
    const breaker = failed(failed(succeeded(), 0, false), 0, false)
    expect(isOpen(breaker)).toBe(false)
    expect(isOpen(failed(breaker, 0, false))).toBe(true)
  })

  it("admits one trial after 5 s, and nobody beside it", () => {
    const open = failures(3, 1_000)
    expect(admits(open, 5_999)).toBe(false)
    expect(admits(open, 6_000)).toBe(true)
    expect(admits(entered(open), 6_000)).toBe(false)
    expect(admits(entered(open), 100_000)).toBe(false)
  })

  it("closes when the trial succeeds, and then takes three failures again", () => {
    expect(succeeded()).toEqual(closedBreaker)
    expect(isOpen(failed(failed(succeeded(), 0, false), 0, false))).toBe(false)
  })

  it("doubles its pause with every failed trial, up to 60 s", () => {
    let breaker = failures(3, 0)
    let now = 5_000
    for (const pause of [10_000, 20_000, 40_000, 60_000, 60_000]) {
      breaker = failedTrial(breaker, now)
      expect(admits(breaker, now + pause - 1), `${pause}`).toBe(false)
      expect(admits(breaker, now + pause), `${pause}`).toBe(true)
      now += pause
    }
  })

  it("begins with 5 s again after it was closed in between", () => {
    failedTrial(failures(3, 0), 5_000)
    const again = [1, 2, 3].reduce((breaker) => failed(breaker, 20_000, false), succeeded())
    expect(admits(again, 24_999)).toBe(false)
    expect(admits(again, 25_000)).toBe(true)
  })

  it("learns nothing from calls that were under way when it opened", () => {
    const open = failures(3, 0)
    expect(failed(open, 4_000, false)).toEqual(open)
    const trying = entered(open)
    expect(failed(trying, 6_000, false)).toEqual(trying)
  })

  it("admits another trial where the first never happened", () => {
    const open = failures(3, 0)
    expect(withdrawn(entered(open))).toEqual(open)
    expect(withdrawn(closedBreaker)).toEqual(closedBreaker)
  })

  it("never admits a second trial beside the first, and always admits one within 60 s", () => {
    const step = fc.record({
      wait: fc.integer({ min: 0, max: 70_000 }),
      end: fc.constantFrom("success", "failure", "late failure", "never tried"),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        let breaker = closedBreaker
        let now = 0
        for (const { end, wait } of steps) {
          now += wait
          expect(admits(breaker, now + 60_000)).toBe(true)
          if (!admits(breaker, now)) continue
          const trial = isOpen(breaker)
          breaker = entered(breaker)
          expect(admits(breaker, now)).toBe(!trial)
          if (end === "late failure") breaker = failed(breaker, now, false)
          if (end === "success") breaker = succeeded()
          else if (end === "never tried" && trial) breaker = withdrawn(breaker)
          else if (end !== "never tried") breaker = failed(breaker, now, trial)
          if (trial && end === "failure") expect(admits(breaker, now + 9_999)).toBe(false)
        }
      }),
      cases,
    )
  })
})
