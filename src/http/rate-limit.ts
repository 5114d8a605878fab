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
  /** When it last sent something that was validly signed. */
  signedAt: number
}

const mostSources = 10_000

// Counted in integers, so that nothing is rounded in anybody's favour: a request costs as many units as a
// minute has milliseconds, and each millisecond gives back as many as there are requests in a minute.
const cost = 60_000

const allowed: Taken = { allowed: true }

const vouchedForMs = 60_000

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
    /** Notes that a source has sent something that is validly signed. */
    readonly vouch: (bucket: string) => void
    /**
     * Whether a source has lately sent much without a valid signature, and nothing with one: where many senders are
     * behind one address, LiveKit may be one of them.
     */
    readonly isSuspect: (bucket: string) => boolean
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

      const usedBy = (debt: Debt | undefined, now: number) =>
        debt === undefined ? 0 : Math.max(0, debt.used - (now - debt.at) * rateLimitPerMinute)

      const take = (bucket: string): Taken => {
        const now = Math.floor(monotonicMs(clock))
        const known = debts.get(bucket)
        const before = known ?? (debts.size < mostSources ? undefined : forgetOldest())
        const signedAt = known?.signedAt ?? Number.NEGATIVE_INFINITY
        const used = usedBy(before, now)
        const excess = used + cost - capacity
        // A refused request costs nothing, but keeps its source from being forgotten while it floods us.
        debts.delete(bucket)
        debts.set(bucket, { used: excess > 0 ? used : used + cost, at: now, signedAt })
        return excess > 0
          ? { allowed: false, retryAfterSeconds: Math.ceil(excess / (rateLimitPerMinute * 1_000)) }
          : allowed
      }

      const vouch = (bucket: string): void => {
        const debt = debts.get(bucket)
        if (debt !== undefined) debt.signedAt = monotonicMs(clock)
      }

      const isSuspect = (bucket: string): boolean => {
        const debt = debts.get(bucket)
        const now = Math.floor(monotonicMs(clock))
        return debt !== undefined && usedBy(debt, now) >= capacity / 2 && now - debt.signedAt > vouchedForMs
      }

      return RateLimit.of({ take, vouch, isSuspect })
    }),
  )
}
