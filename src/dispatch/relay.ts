// Stage 12 for the fleet: the POST that gives the call to a worker.

import { Effect } from "effect"
import type { Call } from "../calls/call.ts"
import type { Result, Seat } from "../fleet/fleet.ts"
import { WorkerClient } from "../fleet/worker-client.ts"
import { Load } from "../load.ts"
import type { Lease } from "./lease.ts"
import { Ambiguous, fromAnswer, NotSent, type Outcome } from "./outcome.ts"

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

/** Posts the call to the worker of the seat, and ends the seat. Never fails: how it ended is the outcome. */
export const relay = Effect.fnUntraced(function* (
  call: Call,
  lease: Lease,
  seat: Seat,
  budgetMs: number,
): Effect.fn.Return<Outcome, never, WorkerClient> {
  const client = yield* WorkerClient
  const withWorker = (yield* Load).pause()
  const request = {
    room_name: call.leg.event.room.name,
    caller_number: call.callerNumber,
    dialed_number: call.dialedNumber,
    call_id: call.callId,
  }
  const options = {
    idempotencyKey: lease.callRowId,
    budgetMs,
    mayStart: () => {
      const may = lease.isValid()
      // Until here it is our time, and too much to do would show in it: a queue of calls that are claimed.
      if (may) withWorker.begin()
      return may
    },
    about: call.callId || call.key,
  }
  yield* seat.begin
  const outcome = yield* client.dispatch(seat.url, request, options).pipe(
    Effect.match({
      onSuccess: fromAnswer,
      onFailure: (failure): Outcome =>
        failure._tag === "NothingSent"
          ? new NotSent({ reason: failure.reason })
          : new Ambiguous({ reason: failure.reason }),
    }),
    Effect.ensuring(Effect.sync(withWorker.end)),
  )
  yield* seat.end(resultOf(outcome))
  return outcome
})
