// Stage 12: the call is given to its taker, and to the next best one only while nothing was ever sent.

import { type Context, Effect, Fiber, Result } from "effect"
import type { Call } from "../calls/call.ts"
import { monotonicMs, theClock } from "../clock.ts"
import type { Settings } from "../config.ts"
import { failpoint } from "../failpoint.ts"
import type { Fleet, Seat } from "../fleet/fleet.ts"
import type { WorkerClient } from "../fleet/worker-client.ts"
import { LiveKit } from "../livekit/livekit.ts"
import { aside } from "../load.ts"
import { dispatchAgent } from "./agent-dispatch.ts"
import type { Ours, OursAgain } from "./claim.ts"
import type { Lease } from "./lease.ts"
import { type Fresh, Ledger, type Resend } from "./ledger.ts"
import { Accepted, NotSent, type Outcome } from "./outcome.ts"
import { callerGone, lookInRoom } from "./presence.ts"
import { relay } from "./relay.ts"
import { release, selectInFleet } from "./select-taker.ts"
import type { Taker } from "./taker.ts"

/** For the whole hand-over, failover included. */
const budgetMs = 10_000
const renewEveryMs = 1_000

/** How the hand-over ended, with the lease of its last attempt and who was to have the call. */
export interface Ended {
  readonly outcome: Outcome
  readonly lease: Lease
  readonly taker: Taker
}

// A caller's leave waits behind the retries of its room, and a call in a room as old as this may have been handed
// over while nobody could see it: then LiveKit knows more than we do.
const oldRoomMs = 10_000

const isDoubtful = ({ leg: { event } }: Call, { known }: Fresh) =>
  known || (event.room.creationTimeMs > 0 && event.createdAtMs - event.room.creationTimeMs > oldRoomMs)

const answeredAlready = new Accepted({
  reason: "somebody is with the caller already",
  answer: {
    status: 200,
    contentType: "application/json",
    body: new TextEncoder().encode('{"ok":true}'),
  },
})

/** How the call ends before anything is sent, by LiveKit's word; `undefined` where it is to go on. */
const endedAlready = Effect.fnUntraced(function* (
  call: Call,
  claim: Fresh,
): Effect.fn.Return<Outcome | undefined, never, LiveKit> {
  const livekit = yield* LiveKit
  if (!livekit.configured || !isDoubtful(call, claim)) return undefined
  const presence = yield* aside(lookInRoom(call, claim.ghostsBeforeMs))
  if (presence._tag === "Gone") return new NotSent({ reason: callerGone })
  return presence._tag === "Answered" ? answeredAlready : undefined
})

const toWorker = Effect.fnUntraced(function* (
  call: Call,
  claim: Fresh | Resend,
  seat: Seat,
  budget: number,
): Effect.fn.Return<Outcome, never, WorkerClient | LiveKit> {
  const ended = claim._tag === "Fresh" ? yield* endedAlready(call, claim) : undefined
  if (ended === undefined) return yield* relay(call, claim.lease, seat, budget)
  yield* seat.end("never tried")
  return ended
})

const attempt = (call: Call, ours: Ours | OursAgain, budget: number) => {
  const { claim, place } = ours
  if (place.kind === "fleet") return toWorker(call, claim, place.seat, budget)
  return claim._tag === "Fresh"
    ? aside(dispatchAgent(call, claim, place.name, budget))
    : Effect.die(new Error("an agent is never dispatched twice"))
}

// Another taker does not help a hand-over that has lost its lease, nor a caller who is gone.
const isFinal = ({ reason }: NotSent) => reason === "lease lapsed" || reason === callerGone

/**
 * The next best taker after a worker that got nothing, named in the ledger before its first byte leaves;
 * `undefined` where there is none, or the lease was lost.
 */
export const failover = Effect.fnUntraced(function* (
  { claim, place }: Ours,
  outcome: NotSent,
  tried: ReadonlySet<string>,
): Effect.fn.Return<Ours | undefined, never, Fleet | Ledger | Settings> {
  if (place.kind !== "fleet" || isFinal(outcome)) return undefined
  const ledger = yield* Ledger
  const next = yield* selectInFleet(tried)
  if (Result.isFailure(next)) return undefined
  const moved = yield* Effect.orElseSucceed(
    ledger.moveOn(claim, outcome.reason, next.success.place),
    () => undefined,
  )
  if (moved !== undefined) return { claim: moved, place: next.success.place }
  yield* release(next.success.place)
  return undefined
})

/** Renews the lease every second, until it is lost. */
const renewing = (lease: () => Lease) =>
  Effect.suspend(() => lease().renew).pipe(
    // A database that does not answer lets the lease lapse, and then nothing more is sent.
    Effect.orElseSucceed(() => true),
    Effect.tap(Effect.sleep(renewEveryMs)),
    Effect.repeat({ while: (held) => held }),
  )

/** Begins to renew the lease, and gives what ends that. Most hand-overs are done before it is more than a timer. */
const keepRenewing = (lease: () => Lease): Effect.Effect<Effect.Effect<void>> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.sync(() => {
      let renewal: Fiber.Fiber<unknown> | undefined
      const timer = setTimeout(() => {
        renewal = Effect.runForkWith(context)(renewing(lease))
      }, renewEveryMs)
      return Effect.suspend(() => {
        clearTimeout(timer)
        return renewal === undefined ? Effect.void : Fiber.interrupt(renewal)
      })
    }),
  )

// Not inside `makeAttempts`: a generator function that is made for each call is slower than all else here.
const attemptsOf = Effect.fnUntraced(function* (
  call: Call,
  state: { current: Ours | OursAgain },
): Effect.fn.Return<Ended, never, Fleet | Ledger | WorkerClient | LiveKit | Settings> {
  const clock = yield* theClock
  const deadline = monotonicMs(clock) + budgetMs
  const tried = new Set<string>()
  while (true) {
    const { claim, place } = state.current
    const outcome = yield* attempt(call, state.current, deadline - monotonicMs(clock))
    const ended: Ended = { outcome, lease: claim.lease, taker: place }
    if (outcome._tag !== "NotSent" || claim._tag !== "Fresh") return ended
    if (place.kind === "fleet") tried.add(place.url)
    if (monotonicMs(clock) >= deadline) return ended
    yield* Effect.logInfo(place.kind === "fleet" ? "Worker not reached" : "Agent not dispatched", {
      [place.kind === "fleet" ? "worker" : "agent"]: place.name,
      why: outcome.reason,
    })
    const next = yield* failover({ claim, place }, outcome, tried)
    if (next === undefined) return ended
    state.current = next
    yield* failpoint("moved", call.callId || call.key)
  }
})

/** Hands the call over, keeping the lease alive meanwhile. Never fails: how it ended is the outcome. */
export const makeAttempts = (
  call: Call,
  first: Ours | OursAgain,
): Effect.Effect<Ended, never, Fleet | Ledger | WorkerClient | LiveKit | Settings> =>
  Effect.suspend(() => {
    const state = { current: first }
    return Effect.acquireUseRelease(
      keepRenewing(() => state.current.claim.lease),
      () => attemptsOf(call, state),
      (endRenewing) => endRenewing,
    )
  })
