// Stage 12 for an agent: LiveKit is told to dispatch it into the caller's room, once.

import { Effect, Result } from "effect"
import type { Call } from "../calls/call.ts"
import { monotonicMs, theClock } from "../clock.ts"
import { LiveKit, type LiveKitError } from "../livekit/livekit.ts"
import type { Fresh } from "./ledger.ts"
import { Accepted, Ambiguous, NotSent, type Outcome } from "./outcome.ts"
import { callerGone, lookWithinMs, withoutGhosts } from "./presence.ts"

// A dispatch into a room that has ended makes the room again, with an agent alone in it. Right after the join
// nobody needs to ask; later the caller may have left behind retries, and a clock that is off only asks too often.
const freshForMs = 5_000
const youngForMs = 10_000

const isFresh = ({ leg: { event } }: Call, { known }: Fresh, nowMs: number) =>
  !known &&
  Math.abs(nowMs - event.createdAtMs) < freshForMs &&
  event.createdAtMs - event.room.creationTimeMs < youngForMs

const accepted = (agentName: string, dispatchId: string) =>
  new Accepted({
    answer: {
      status: 200,
      contentType: "application/json",
      body: new TextEncoder().encode(
        JSON.stringify({ ok: true, agent_name: agentName, dispatch_id: dispatchId }),
      ),
    },
  })

const reasonOf = (error: LiveKitError) =>
  error._tag === "LiveKitRefused"
    ? `LiveKit answers ${error.status}${error.code === undefined ? "" : ` (${error.code})`}`
    : `LiveKit: ${error.reason}`

/** What a failed creation means. LiveKit's refusals have done nothing; after anything else it may have. */
const outcomeOf = (error: LiveKitError): NotSent | Ambiguous => {
  const reason = reasonOf(error)
  switch (error._tag) {
    case "LiveKitNotReached":
      return new NotSent({ reason: error.reason === "lease lapsed" ? error.reason : reason })
    case "LiveKitSilent":
      return new Ambiguous({ reason })
    case "LiveKitRefused": {
      // A proxy answers 408 and cuts bodies off (`malformed`) after LiveKit has seen the request.
      const refused = error.status >= 400 && error.status < 500 && error.status !== 408
      return error.code === "unavailable" || (refused && error.code !== "malformed")
        ? new NotSent({ reason })
        : new Ambiguous({ reason })
    }
  }
}

/**
 * Dispatches the agent, unless one is in the room or on its way already. `budgetMs` is for everything. Never fails:
 * how it ended is the outcome.
 */
export const dispatchAgent = Effect.fnUntraced(function* (
  call: Call,
  claim: Fresh,
  agentName: string,
  budgetMs: number,
): Effect.fn.Return<Outcome, never, LiveKit> {
  const livekit = yield* LiveKit
  const room = call.leg.event.room.name
  const clock = yield* theClock
  const deadline = monotonicMs(clock) + budgetMs
  const within = Math.min(lookWithinMs, budgetMs)
  // Asking changes nothing, whatever becomes of it.
  const [participants, dispatches] = yield* Effect.all(
    [Effect.result(livekit.participants(room, within)), Effect.result(livekit.dispatches(room, within))],
    { concurrency: 2 },
  )
  if (Result.isFailure(participants)) return new NotSent({ reason: reasonOf(participants.failure) })
  const present = withoutGhosts(participants.success, claim.ghostsBeforeMs)
  const caller = call.leg.participant.identity
  if (
    !isFresh(call, claim, clock.currentTimeMillisUnsafe()) &&
    !present.some(({ identity }) => identity === caller)
  ) {
    return new NotSent({ reason: callerGone })
  }
  if (Result.isFailure(dispatches)) return new NotSent({ reason: reasonOf(dispatches.failure) })
  const dispatched = dispatches.success.find((dispatch) => dispatch.agentName === agentName)
  if (dispatched !== undefined || present.some(({ kind }) => kind === "AGENT")) {
    return accepted(agentName, dispatched?.id ?? "")
  }

  const sending = {
    withinMs: deadline - monotonicMs(clock),
    mayStart: claim.lease.isValid,
    about: call.callId || call.key,
  }
  return yield* livekit.createDispatch(room, agentName, call.decision.metadata, sending).pipe(
    Effect.match({
      onSuccess: ({ id }): Outcome => accepted(agentName, id),
      onFailure: outcomeOf,
    }),
  )
})
