// Stage 11: the call is given to the worker, and to the next best one only while nothing was ever sent.

import { Effect, Option } from "effect"
import { monotonicMs, theClock } from "../clock.ts"
import { Fleet, type Result, type Seat } from "../fleet/fleet.ts"
import { type NothingSent, WorkerClient } from "../fleet/worker-client.ts"
import type { Call } from "./call.ts"
import type { Ours } from "./claim.ts"
import { type Fresh, type Lease, Ledger, type Resend } from "./ledger.ts"
import { Ambiguous, fromAnswer, NotSent, type Outcome } from "./outcome.ts"

/** For the whole relay, failover included. */
const budgetMs = 10_000
const renewEvery = "1 second"

/** How the hand-over ended, with the lease of its last attempt and the worker that had it. */
export interface Relayed {
  readonly outcome: Outcome
  readonly lease: Lease
  readonly worker: string
}

type Attempted = Ours<Fresh> | Ours<Resend>

const resultOf = (outcome: Outcome): Result => {
  switch (outcome._tag) {
    case "Accepted":
      return "accepted"
    case "Rejected":
      return outcome.answer.status === 429 ? "turned away" : "failed"
    case "Ambiguous":
      return "no answer"
    case "NotSent":
      if (outcome.reason === "lease lapsed") return "never tried"
      return outcome.reason === "refused" ? "refused connection" : "failed"
  }
}

const post = Effect.fnUntraced(function* (call: Call, lease: Lease, seat: Seat, budget: number) {
  const client = yield* WorkerClient
  const request = {
    room_name: call.leg.event.room.name,
    caller_number: call.callerNumber,
    dialed_number: call.dialedNumber,
    call_id: call.callId,
  }
  return yield* client
    .dispatch(seat.url, request, {
      idempotencyKey: lease.callRowId,
      budgetMs: budget,
      mayStart: lease.isValid,
    })
    .pipe(
      Effect.match({
        onSuccess: fromAnswer,
        onFailure: (failure): Outcome =>
          failure._tag === "NothingSent" ? notSent(failure) : new Ambiguous({ reason: failure.reason }),
      }),
    )
})

const notSent = ({ reason }: NothingSent) => new NotSent({ reason })

const attempt = (call: Call, { claim, seat }: Attempted, budget: number) =>
  seat.begin.pipe(
    Effect.andThen(post(call, claim.lease, seat, budget)),
    Effect.tap((outcome) => seat.end(resultOf(outcome))),
  )

/**
 * The next best worker after one that got nothing, named in the ledger before its first byte leaves;
 * `undefined` where there is none, or the lease was lost.
 */
export const failover = Effect.fnUntraced(function* (
  fresh: Fresh,
  outcome: NotSent,
  tried: ReadonlySet<string>,
): Effect.fn.Return<Ours<Fresh> | undefined, never, Fleet | Ledger> {
  if (outcome.reason === "lease lapsed") return undefined
  const fleet = yield* Fleet
  const ledger = yield* Ledger
  const next = yield* Effect.option(fleet.select(tried))
  if (Option.isNone(next)) return undefined
  const { seat } = next.value
  const moved = yield* Effect.orElseSucceed(ledger.moveOn(fresh, outcome.reason, seat), () => undefined)
  if (moved !== undefined) return { claim: moved, seat }
  yield* seat.end("never tried")
  return undefined
})

/** Hands the call over, keeping the lease alive meanwhile. Never fails: how it ended is the outcome. */
export const relay = Effect.fnUntraced(function* (
  call: Call,
  ours: Attempted,
): Effect.fn.Return<Relayed, never, Fleet | Ledger | WorkerClient> {
  const clock = yield* theClock
  const deadline = monotonicMs(clock) + budgetMs
  const tried = new Set<string>()
  let current = ours

  const renewing = Effect.sleep(renewEvery).pipe(
    Effect.andThen(Effect.suspend(() => current.claim.lease.renew)),
    // A database that does not answer lets the lease lapse, and then nothing more is sent.
    Effect.orElseSucceed(() => true),
    Effect.repeat({ while: (held) => held }),
    Effect.andThen(Effect.never),
  )
  const handing = Effect.gen(function* () {
    while (true) {
      const outcome = yield* attempt(call, current, deadline - monotonicMs(clock))
      tried.add(current.seat.url)
      const ended: Relayed = { outcome, lease: current.claim.lease, worker: current.seat.name }
      if (outcome._tag !== "NotSent" || current.claim._tag !== "Fresh") return ended
      if (monotonicMs(clock) >= deadline) return ended
      yield* Effect.logInfo("Worker not reached", { worker: current.seat.name, why: outcome.reason })
      const next = yield* failover(current.claim, outcome, tried)
      if (next === undefined) return ended
      current = next
    }
  })
  return yield* Effect.raceFirst(handing, renewing)
})
