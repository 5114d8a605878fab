// How many requests without a valid signature one source may send.

import { Context, Effect, Layer } from "effect"
import { monotonicMs, theClock } from "../clock.ts"
import { Settings } from "../config.ts"

/** Whether a request may go on, or when to come back. */
export type Taken =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly retryAfterSeconds: number }

/** What a source has used of its minute, at a time in whole milliseconds. */
interface Debt {
  readonly used: number
  readonly at: number
}

const mostSources = 10_000

// Counted in integers, so that nothing is rounded in anybody's favour: a request costs as many units as a
// minute has milliseconds, and each millisecond gives back as many as there are requests in a minute.
const cost = 60_000

const allowed: Taken = { allowed: true }

/**
 * A bucket for each source: full at first, `RATE_LIMIT_PER_MINUTE` requests deep, refilled continuously.
 *
 * At most 10,000 sources are remembered. A further one takes the place of the one unseen for longest, and
 * with it what that one has used of its minute: nothing, where it was idle for a minute. So whoever sends
 * from more addresses than that can make us forget a source, but all of them together never get more than
 * 10,000 sources do. The price is that in such a flood a stranger without a signature can be refused at once.
 */
export class RateLimit extends Context.Service<
  RateLimit,
  {
    /** Counts one request of a source, unless it is over its limit. */
    readonly take: (bucket: string) => Taken
  }
>()("switchhook/http/RateLimit") {
  static readonly layer = Layer.effect(
    RateLimit,
    Effect.gen(function* () {
      const { rateLimitPerMinute } = yield* Settings
      const clock = yield* theClock
      const capacity = cost * rateLimitPerMinute
      // Ordered by when each was last seen, as every request puts its source last.
      const debts = new Map<string, Debt>()

      const forgetOldest = (): Debt | undefined => {
        for (const [bucket, debt] of debts) {
          debts.delete(bucket)
          return debt
        }
        return undefined
      }

      const take = (bucket: string): Taken => {
        const now = Math.floor(monotonicMs(clock))
        const before = debts.get(bucket) ?? (debts.size < mostSources ? undefined : forgetOldest())
        const refilled = before === undefined ? 0 : (now - before.at) * rateLimitPerMinute
        const used = Math.max(0, (before?.used ?? 0) - refilled)
        const excess = used + cost - capacity
        // A refused request costs nothing, but keeps its source from being forgotten while it floods us.
        debts.delete(bucket)
        debts.set(bucket, { used: excess > 0 ? used : used + cost, at: now })
        return excess > 0
          ? { allowed: false, retryAfterSeconds: Math.ceil(excess / (rateLimitPerMinute * 1_000)) }
          : allowed
      }

      return RateLimit.of({ take })
    }),
  )
}
