// From selection to the stored outcome: the part that, once begun, runs to its end whoever waits for it.

import { Data, Effect, Exit, Result } from "effect"
import type { Call } from "../calls/call.ts"
import type { Settings } from "../config.ts"
import type { DatabaseError } from "../database/errors.ts"
import { failpoint } from "../failpoint.ts"
import type { Considered, Fleet, NoFleet, NoHealthyFleet } from "../fleet/fleet.ts"
import type { WorkerAnswer, WorkerClient } from "../fleet/worker-client.ts"
import type { LiveKit } from "../livekit/livekit.ts"
import { counted } from "../load.ts"
import { maskName, maskNumber } from "../masking.ts"
import { countDispatch, measured, timed } from "../metrics.ts"
import type { Decision } from "../routing/decision.ts"
import { type Ended, makeAttempts } from "./attempts.ts"
import { claim, type Ours, type OursAgain, type Replay } from "./claim.ts"
import { tookMs } from "./explanation.ts"
import type { Ignored } from "./ignored.ts"
import { InFlight, type Reply } from "./in-flight.ts"
import type { Lease } from "./lease.ts"
import { CallerLeft, InFlightElsewhere, Ledger } from "./ledger.ts"
import { isRedirect, type Outcome } from "./outcome.ts"
import { callerGone } from "./presence.ts"
import { type RecordNeeds, recordGone } from "./record.ts"
import type { SeenCall } from "./rescue-statement.ts"
import { release, selectInFleet, selectTaker } from "./select-taker.ts"

/** A worker has answered, and its status and body go back as they came; or LiveKit dispatches an agent. */
export class HandedOver extends Data.TaggedClass("HandedOver")<{ readonly answer: WorkerAnswer }> {}

/** No worker has answered, or only with a redirect; or nobody knows whether an agent comes. */
export class DispatchFailed extends Data.TaggedClass("DispatchFailed")<{
  readonly outcome: Outcome["_tag"]
}> {}

/** LiveKit does not dispatch the agent. */
export class NoAgent extends Data.TaggedClass("NoAgent")<{ readonly why: string }> {}

export type HandOverError =
  | Ignored
  | NoFleet
  | NoHealthyFleet
  | NoAgent
  | InFlightElsewhere
  | DispatchFailed
  | DatabaseError

export type HandOverNeeds = Ledger | Fleet | WorkerClient | LiveKit | InFlight | Settings | RecordNeeds

const settle = Effect.fnUntraced(function* (lease: Lease, outcome: Outcome, tookMs: Record<string, number>) {
  yield* (yield* Ledger).settle(lease, outcome, tookMs)
})

const store = (lease: Lease, outcome: Outcome, tookMs: Record<string, number>) =>
  settle(lease, outcome, tookMs).pipe(
    Effect.catch((error) => Effect.logError("Outcome refused by the database", { why: error.message })),
    timed("store"),
  )

const tell = ({ outcome, taker }: Ended) => {
  const who = { [taker.kind === "fleet" ? "worker" : "agent"]: taker.name }
  switch (outcome._tag) {
    case "Accepted":
      return outcome.reason === undefined
        ? Effect.logInfo("Dispatched", { ...who, status: outcome.answer.status })
        : Effect.logInfo("Not dispatched again", { why: outcome.reason })
    case "Rejected":
      return Effect.logWarning("Dispatch failed", {
        ...who,
        outcome: "rejected",
        status: outcome.answer.status,
      })
    case "NotSent":
      return Effect.logWarning("Dispatch failed", { ...who, outcome: "not sent", why: outcome.reason })
    case "Ambiguous":
      return Effect.logWarning("Dispatch failed", { ...who, outcome: "ambiguous", why: outcome.reason })
  }
}

const toExit = ({ outcome, taker }: Ended): Exit.Exit<HandedOver | CallerLeft, DispatchFailed | NoAgent> => {
  if ("answer" in outcome && !isRedirect(outcome.answer)) {
    return Exit.succeed(new HandedOver({ answer: outcome.answer }))
  }
  if (outcome._tag === "NotSent" && outcome.reason === callerGone) return Exit.succeed(new CallerLeft())
  if (outcome._tag === "NotSent" && taker.kind === "agent")
    return Exit.fail(new NoAgent({ why: outcome.reason }))
  return Exit.fail(new DispatchFailed({ outcome: outcome._tag }))
}

const tellReceived = (call: Call) =>
  Effect.logInfo("Inbound call received", {
    caller: maskNumber(call.callerNumber),
    dialed: maskNumber(call.dialedNumber),
    room: maskName(call.leg.event.room.name),
  })

const sources = {
  campaign: "Using campaign agent",
  tenant: "Using tenant agent",
  default: "Using default agent",
} as const

/** What the number has decided. */
export const tellRoute = Effect.fnUntraced(function* (decision: Decision) {
  const { agent, campaignId, didId, error, target, tenantId } = decision
  if (didId !== undefined)
    yield* Effect.logInfo("Phone number found", { did: didId, tenant: tenantId, target })
  const dialed = maskNumber(decision.attributes.phone_number)
  // A fleet answers numbers that nobody has entered, and that is nothing to warn of.
  if (error === "Database error") yield* Effect.logWarning(error, { dialed })
  else if (error !== undefined) yield* Effect.logInfo(error, { dialed })
  if (target === "agent")
    yield* Effect.logInfo(sources[agent.why], { agent: agent.name, campaign: campaignId })
})

const announce = (call: Call) => Effect.andThen(tellReceived(call), tellRoute(call.decision))

const skipped = (considered: ReadonlyArray<Considered>) =>
  considered.map(({ why, worker }) => `${worker}: ${why}`).join("; ")

/** Why nobody was asked. */
const tellRefused =
  (call: Call) =>
  (error: Exclude<HandOverError, DispatchFailed | NoAgent>): Effect.Effect<void> => {
    switch (error._tag) {
      case "NoFleet":
        return Effect.logWarning("Dispatch failed", { why: "No fleet" })
      case "NoHealthyFleet":
        return Effect.logWarning("Dispatch failed", {
          why: "No healthy fleet",
          workers: skipped(error.considered),
        })
      case "DatabaseUnavailable":
      case "QueryRefused":
        return Effect.andThen(announce(call), Effect.logWarning("Dispatch failed", { why: error.message }))
      case "InFlightElsewhere":
        return Effect.logInfo("Delivered again", { known: "in flight in another process" })
      case "Ignored":
        return Effect.logInfo("Not a call", { why: error.why })
    }
  }

const aboutOf = ({ callId, key }: Call) => callId || key

/** From the claim to the stored outcome: in work but for the time that somebody else takes. */
const finish = Effect.fnUntraced(function* (
  call: Call,
  ours: Ours | OursAgain,
  claimMs: number,
  reply: Reply<HandedOver | Replay, HandOverError>,
): Effect.fn.Return<void, DatabaseError, HandOverNeeds> {
  const ledger = yield* Ledger
  const about = aboutOf(call)
  yield* failpoint("claimed", about)
  const { ms: relayMs, value: ended } = yield* measured("relay")(makeAttempts(call, ours))
  yield* failpoint("answered", about)
  yield* tell(ended)
  countDispatch(ended.outcome._tag)
  yield* store(ended.lease, ended.outcome, tookMs({ claim: claimMs, relay: relayMs }))
  yield* failpoint("stored", about)
  ledger.answered(call, ended.outcome)
  const exit = toExit(ended)
  if (Exit.isSuccess(exit) && exit.value._tag === "CallerLeft") yield* recordGone(call)
  yield* reply(exit)
  yield* failpoint("replied", about)
})

const tellReplay = ({ _tag }: Replay) => Effect.logInfo("Delivered again", { known: _tag })

const run = Effect.fnUntraced(function* (
  call: Call,
  reply: Reply<HandedOver | Replay, HandOverError>,
): Effect.fn.Return<void, HandOverError, HandOverNeeds> {
  const selection = yield* measured("select")(selectTaker(call.decision))
  yield* failpoint("selected", aboutOf(call))
  const { ms: claimMs, value: ours } = yield* measured("claim")(
    counted(claim(call, selection, announce(call))),
  ).pipe(Effect.tapError(tellRefused(call)))
  if (!("claim" in ours)) {
    yield* tellReplay(ours)
    return yield* reply(Exit.succeed(ours))
  }
  yield* counted(finish(call, ours, claimMs, reply))
})

/**
 * Hands the call over, at most once; a duplicate that comes meanwhile shares the outcome (`shared`).
 * Succeeds with the worker's answer or with what the ledger knows.
 */
export const handOver = (
  call: Call,
): Effect.Effect<
  { readonly value: HandedOver | Replay; readonly shared: boolean },
  HandOverError,
  HandOverNeeds
> =>
  Effect.flatMap(Ledger, (ledger) => {
    const known = ledger.answerTo(call)
    return known === undefined
      ? Effect.flatMap(InFlight, (inFlight) => inFlight.share(call.key, (reply) => run(call, reply)))
      : Effect.as(tellReplay(known), { value: known, shared: false })
  })

/** A call that nobody has joined, as it was seen, and who has had it: by their URLs. */
export interface Forlorn {
  readonly seen: SeenCall
  readonly tried: ReadonlySet<string>
  readonly ghostsBeforeMs: number | undefined
}

const runRescue = (call: Call, { ghostsBeforeMs, seen, tried }: Forlorn) =>
  Effect.fnUntraced(function* (
    reply: Reply<HandedOver | Replay, HandOverError>,
  ): Effect.fn.Return<void, HandOverError, HandOverNeeds> {
    const ledger = yield* Ledger
    const selection = yield* selectInFleet(tried)
    if (Result.isFailure(selection)) return yield* Effect.fail(selection.failure)
    const { place } = selection.success
    const { ms, value: claimed } = yield* measured("claim")(
      counted(ledger.rescue(call, seen, ghostsBeforeMs, place)).pipe(Effect.tapCause(() => release(place))),
    )
    if (claimed === undefined) {
      yield* release(place)
      return yield* Effect.fail(new InFlightElsewhere())
    }
    yield* Effect.logWarning("Rescuing a call that nobody has joined", {
      [place.kind === "fleet" ? "worker" : "agent"]: place.name,
    })
    yield* counted(finish(call, { claim: claimed, place }, ms, reply))
  })

/**
 * Gives a call that nobody has joined to another worker, else to `FALLBACK_AGENT`. Fails where there is nobody, or the
 * call has moved on since it was seen.
 */
export const rescue = (
  call: Call,
  forlorn: Forlorn,
): Effect.Effect<
  { readonly value: HandedOver | Replay; readonly shared: boolean },
  HandOverError,
  HandOverNeeds
> => Effect.flatMap(InFlight, (inFlight) => inFlight.share(call.key, runRescue(call, forlorn)))
