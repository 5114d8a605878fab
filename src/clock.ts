// Durations are measured on a clock that no time server can turn back.

import { type Clock, Effect } from "effect"

/** Milliseconds on the monotonic clock; only differences mean anything. */
export const monotonicMs = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

/** The current fiber's clock, for code that asks it often. */
export const theClock: Effect.Effect<Clock.Clock> = Effect.clockWith(Effect.succeed)
