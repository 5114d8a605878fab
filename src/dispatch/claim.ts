// Stage 10: the ledger decides. Whatever it says, no seat in the fleet is left behind.

import { Effect, Option, Result } from "effect"
import type { DatabaseError } from "../database/errors.ts"
import { Fleet, type NoFleet, type NoHealthyFleet, type Seat } from "../fleet/fleet.ts"
import type { Call } from "./call.ts"
import { type Ignored, ignore } from "./ignored.ts"
import {
  type Fresh,
  type InFlightElsewhere,
  type Known,
  Ledger,
  type NotACall,
  type Resend,
  StillUncertain,
} from "./ledger.ts"
import { NotSent } from "./outcome.ts"
import type { Selection } from "./select-worker.ts"

/** The call is ours to hand over, to the worker of this seat. */
export interface Ours<Claim extends Fresh | Resend> {
  readonly claim: Claim
  readonly seat: Seat
}

/** What the ledger answers in place of a hand-over. */
export type Replay = Exclude<Known, NotACall | InFlightElsewhere>

// What a row keeps of a decision stays small, however large the fleet: the candidates come first.
const mostExplained = 50

const release = (selection: Selection) =>
  Result.isSuccess(selection) ? selection.success.seat.end("never tried") : Effect.void

/** Claims the call for the selected worker, or without one; fails where nothing may or can be handed over now. */
export const claim = Effect.fnUntraced(function* (
  call: Call,
  selection: Selection,
): Effect.fn.Return<
  Ours<Fresh> | Ours<Resend> | Replay,
  Ignored | NoFleet | NoHealthyFleet | InFlightElsewhere | DatabaseError,
  Ledger | Fleet
> {
  const ledger = yield* Ledger
  const fleet = yield* Fleet
  const considered = Result.isSuccess(selection) ? selection.success.considered : selection.failure.considered
  const claimed = yield* ledger
    .claim({
      call,
      worker: Result.isSuccess(selection) ? selection.success.seat : undefined,
      idempotentUrls: fleet.idempotentUrls(),
      explanation: { considered: considered.slice(0, mostExplained) },
    })
    .pipe(Effect.tapCause(() => release(selection)))

  if (claimed._tag === "Fresh" && Result.isSuccess(selection)) {
    return { claim: claimed, seat: selection.success.seat }
  }
  yield* release(selection)
  switch (claimed._tag) {
    case "Resend": {
      const seat = yield* fleet.seatOn(claimed.worker.url)
      if (Option.isSome(seat)) return { claim: claimed, seat: seat.value }
      // It left the fleet between the statement and here, and nothing was sent this time.
      yield* Effect.ignore(ledger.settle(claimed.lease, new NotSent({ reason: "not connected" })))
      return new StillUncertain()
    }
    case "NotACall":
      return yield* ignore("claim", claimed.why)
    case "InFlightElsewhere":
      return yield* Effect.fail(claimed)
    case "Fresh":
    case "Waiting":
      return yield* Result.isFailure(selection)
        ? Effect.fail(selection.failure)
        : Effect.die(new Error("the ledger lost the worker it was given"))
    default:
      return claimed
  }
})
