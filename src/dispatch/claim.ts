// Stage 11: the ledger decides. Whatever it says, no seat in the fleet is left behind.

import { Effect, Option, Result } from "effect"
import type { Call } from "../calls/call.ts"
import { Settings } from "../config.ts"
import type { DatabaseError } from "../database/errors.ts"
import { Fleet, type NoFleet, type NoHealthyFleet } from "../fleet/fleet.ts"
import { explain } from "./explanation.ts"
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
import { type AtWorker, atWorker, type Place, release, type Selection } from "./select-taker.ts"

/** The call is ours: nothing of it was ever sent, and it is to go to this place. */
export interface Ours {
  readonly claim: Fresh
  readonly place: Place
}

/** The call is ours, and its idempotent worker may have it already. */
export interface OursAgain {
  readonly claim: Resend
  readonly place: AtWorker
}

/** What the ledger answers in place of a hand-over. */
export type Replay = Exclude<Known, NotACall | InFlightElsewhere>

const releaseAll = (selection: Selection) =>
  Result.isSuccess(selection) ? release(selection.success.place) : Effect.void

/**
 * Claims the call for the selected place, or for nobody; fails where nothing may or can be handed over now.
 * `announce` says that a call came in, unless this is merely a repetition.
 */
export const claim = Effect.fnUntraced(function* (
  call: Call,
  { ms: selectMs, value: selection }: { readonly value: Selection; readonly ms: number },
  announce: Effect.Effect<void>,
): Effect.fn.Return<
  Ours | OursAgain | Replay,
  Ignored | NoFleet | NoHealthyFleet | InFlightElsewhere | DatabaseError,
  Ledger | Fleet | Settings
> {
  const ledger = yield* Ledger
  const fleet = yield* Fleet
  const considered = Result.isSuccess(selection) ? selection.success.considered : selection.failure.considered
  const claimed = yield* ledger
    .claim({
      call,
      taker: Result.isSuccess(selection) ? selection.success.place : undefined,
      idempotentUrls: fleet.idempotentUrls(),
      explanation: explain(call, considered, selectMs),
      answerWithinMs: (yield* Settings).answerWithinMs,
      announce,
    })
    .pipe(Effect.tapCause(() => releaseAll(selection)))

  if (claimed._tag === "Fresh" && Result.isSuccess(selection)) {
    return { claim: claimed, place: selection.success.place }
  }
  yield* releaseAll(selection)
  switch (claimed._tag) {
    case "Resend": {
      const seat = yield* fleet.seatOn(claimed.worker.url)
      if (Option.isSome(seat)) return { claim: claimed, place: atWorker(seat.value) }
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
        : Effect.die(new Error("the ledger lost the taker it was given"))
    default:
      return claimed
  }
})
