// Durations are measured on a clock that no time server can turn back.

import { type Clock, Effect } from "effect"

/** Milliseconds on the monotonic clock; only differences mean anything. */
export const monotonicMs = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

const sliceMs = 50

/**
 * Sleeps until this process has had `ms` milliseconds in which it could work. While it is held up (garbage, a
 * frozen machine, too few processors) the answers that it waits for pile up unread, and say nothing of the other
 * side: of such a pause only a slice counts.
 */
export const sleepAwake = (ms: number): Effect.Effect<void> =>
  ms <= sliceMs
    ? Effect.sleep(Math.max(0, ms))
    : Effect.andThen(
        Effect.sleep(sliceMs),
        Effect.suspend(() => sleepAwake(ms - sliceMs)),
      )

/** Calls back when `sleepAwake` would end; gives what stops that. */
export const afterAwake = (ms: number, callBack: () => void): (() => void) => {
  let timer: ReturnType<typeof setTimeout>
  const sleep = (left: number) => {
    const next = left <= sliceMs ? callBack : () => sleep(left - sliceMs)
    timer = setTimeout(next, Math.min(left, sliceMs))
  }
  sleep(ms)
  return () => clearTimeout(timer)
}

/** The current fiber's clock, for code that asks it often. */
export const theClock: Effect.Effect<Clock.Clock> = Effect.clockWith(Effect.succeed)
