// From selection to the stored outcome: the part that, once begun, runs to its end whoever waits for it.

import { Data, Effect, Exit, Fiber, Schedule } from "effect"
import type { DatabaseError } from "../database/errors.ts"
import type { Considered, Fleet, NoFleet, NoHealthyFleet } from "../fleet/fleet.ts"
import type { WorkerAnswer, WorkerClient } from "../fleet/worker-client.ts"
import { maskName, maskNumber } from "../masking.ts"
import { countDispatch, timed } from "../metrics.ts"
import type { Call } from "./call.ts"
import { claim, type Replay } from "./claim.ts"
import type { Ignored } from "./ignored.ts"
import { InFlight, type Reply } from "./in-flight.ts"
import { type InFlightElsewhere, type Lease, Ledger } from "./ledger.ts"
import { isRedirect, type Outcome } from "./outcome.ts"
import { type Relayed, relay } from "./relay.ts"
import { selectWorker } from "./select-worker.ts"

/** A worker has answered; its status and body go back as they came. */
export class HandedOver extends Data.TaggedClass("HandedOver")<{ readonly answer: WorkerAnswer }> {}

/** No worker has answered, or only with a redirect. */
export class DispatchFailed extends Data.TaggedClass("DispatchFailed")<{
  readonly outcome: Outcome["_tag"]
}> {}

export type HandOverError =
  | Ignored
  | NoFleet
  | NoHealthyFleet
  | InFlightElsewhere
  | DispatchFailed
  | DatabaseError

type Needs = Ledger | Fleet | WorkerClient | InFlight

// The answer must not wait for a database that hangs: what it has not stored by then is stored later.
const storeWithin = "1 second"
const storeAgain = Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("2 seconds")])
const storeFor = "5 minutes"

const store = (lease: Lease, outcome: Outcome) =>
  Effect.gen(function* () {
    const ledger = yield* Ledger
    yield* ledger.settle(lease, outcome)
  }).pipe(
    Effect.tapError((error) => Effect.logWarning("Outcome not stored yet", { why: error.message })),
    Effect.retry(storeAgain),
    Effect.timeoutOrElse({
      duration: storeFor,
      orElse: () =>
        Effect.logError("Outcome lost: the database did not come back", { outcome: outcome._tag }),
    }),
    timed("store"),
  )

const tell = ({ outcome, worker }: Relayed) => {
  switch (outcome._tag) {
    case "Accepted":
      return Effect.logInfo("Dispatched", { worker, status: outcome.answer.status })
    case "Rejected":
      return Effect.logWarning("Dispatch failed", {
        worker,
        outcome: "rejected",
        status: outcome.answer.status,
      })
    case "NotSent":
      return Effect.logWarning("Dispatch failed", { worker, outcome: "not sent", why: outcome.reason })
    case "Ambiguous":
      return Effect.logWarning("Dispatch failed", { worker, outcome: "ambiguous", why: outcome.reason })
  }
}

const toExit = ({ outcome }: Relayed): Exit.Exit<HandedOver, DispatchFailed> =>
  "answer" in outcome && !isRedirect(outcome.answer)
    ? Exit.succeed(new HandedOver({ answer: outcome.answer }))
    : Exit.fail(new DispatchFailed({ outcome: outcome._tag }))

const tellReceived = (call: Call) =>
  Effect.logInfo("Inbound call received", {
    caller: maskNumber(call.callerNumber),
    dialed: maskNumber(call.dialedNumber),
    room: maskName(call.leg.event.room.name),
  })

const skipped = (considered: ReadonlyArray<Considered>) =>
  considered.map(({ why, worker }) => `${worker}: ${why}`).join("; ")

const tellFailed = (call: Call, why: object) =>
  Effect.andThen(tellReceived(call), Effect.logWarning("Dispatch failed", why))

/** Why nobody was asked. */
const tellRefused =
  (call: Call) =>
  (error: Exclude<HandOverError, DispatchFailed>): Effect.Effect<void> => {
    switch (error._tag) {
      case "NoFleet":
        return tellFailed(call, { why: "No fleet" })
      case "NoHealthyFleet":
        return tellFailed(call, { why: "No healthy fleet", workers: skipped(error.considered) })
      case "DatabaseUnavailable":
      case "QueryRefused":
        return tellFailed(call, { why: error.message })
      case "InFlightElsewhere":
        return Effect.logInfo("Delivered again", { known: "in flight in another process" })
      case "Ignored":
        return Effect.logInfo("Not a call", { why: error.why })
    }
  }

const run = (call: Call) =>
  Effect.fnUntraced(function* (
    reply: Reply<HandedOver | Replay, HandOverError>,
  ): Effect.fn.Return<void, HandOverError, Needs> {
    const selection = yield* timed("select")(selectWorker)
    const ours = yield* timed("claim")(claim(call, selection)).pipe(Effect.tapError(tellRefused(call)))
    if (!("claim" in ours)) {
      yield* Effect.logInfo("Delivered again", { known: ours._tag })
      return yield* reply(Exit.succeed(ours))
    }
    yield* tellReceived(call)
    const relayed = yield* timed("relay")(relay(call, ours))
    yield* tell(relayed)
    yield* countDispatch(relayed.outcome._tag)
    const storing = yield* Effect.forkChild(store(relayed.lease, relayed.outcome))
    yield* Effect.timeoutOption(Fiber.join(storing), storeWithin)
    yield* reply(toExit(relayed))
    yield* Fiber.join(storing)
  })

/**
 * Hands the call over, at most once; a duplicate that comes meanwhile shares the outcome (`shared`).
 * Succeeds with the worker's answer or with what the ledger knows.
 */
export const handOver = (
  call: Call,
): Effect.Effect<{ readonly value: HandedOver | Replay; readonly shared: boolean }, HandOverError, Needs> =>
  Effect.flatMap(InFlight, (inFlight) => inFlight.share(call.key, run(call)))
