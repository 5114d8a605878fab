// A breaker for relays, beside the probes: a worker with the wrong secret answers 401 in a millisecond and
// looks idle.

/** `open` until `until`, then one trial call may pass; `pauseMs` doubles with every failed trial. */
export type Breaker =
  | { readonly state: "closed"; readonly failures: number }
  | { readonly state: "open"; readonly until: number; readonly pauseMs: number; readonly trial: boolean }

const opensAfter = 3
const firstPauseMs = 5_000
const longestPauseMs = 60_000

export const closedBreaker: Breaker = { state: "closed", failures: 0 }

export const isOpen = (breaker: Breaker): boolean => breaker.state === "open"

/** After an answer of 2xx or 429. */
export const succeeded = (): Breaker => closedBreaker

/** After a transport error or any other answer, at `now` (ms), to a call that was the trial or not. */
export const failed = (breaker: Breaker, now: number, wasTrial: boolean): Breaker => {
  if (breaker.state === "closed") {
    return breaker.failures + 1 < opensAfter
      ? { state: "closed", failures: breaker.failures + 1 }
      : { state: "open", until: now + firstPauseMs, pauseMs: firstPauseMs, trial: false }
  }
  // A call that was under way when it opened says nothing new; only the trial does.
  if (!wasTrial) return breaker
  const pauseMs = Math.min(breaker.pauseMs * 2, longestPauseMs)
  return { state: "open", until: now + pauseMs, pauseMs, trial: false }
}

/** Whether a call may go to the worker at `now` (ms). */
export const admits = (breaker: Breaker, now: number): boolean =>
  breaker.state === "closed" || (now >= breaker.until && !breaker.trial)

/** A call was given to the worker: where the breaker is open, this is its trial. */
export const entered = (breaker: Breaker): Breaker =>
  breaker.state === "open" ? { ...breaker, trial: true } : breaker

/** The trial call never happened after all. */
export const withdrawn = (breaker: Breaker): Breaker =>
  breaker.state === "open" ? { ...breaker, trial: false } : breaker
