// THE pipeline: what becomes of a webhook, stage by stage, in the order of the README's table.

import { Effect, Exit, Option, Result } from "effect"
import { type Call, callKey } from "../calls/call.ts"
import { TrunkDirectory } from "../carriers/trunk-directory.ts"
import { Settings } from "../config.ts"
import type { DatabaseError } from "../database/errors.ts"
import { failpoint, isWatched } from "../failpoint.ts"
import { aside, Load, type Overloaded } from "../load.ts"
import { countEvent, countReplay, measured, timed } from "../metrics.ts"
import type { SessionMoved } from "../sessions/sessions.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import type { Keys } from "../webhook/keys.ts"
import {
  type Authentic,
  authenticate,
  authenticityOf,
  type NotAuthentic,
  type SignedRequest,
} from "./authenticate.ts"
import type { Replay } from "./claim.ts"
import { didFallback } from "./did-fallback.ts"
import { dialedFrom, type Explanation, explain, whyOf } from "./explanation.ts"
import { extractAttributes } from "./extract-attributes.ts"
import { filterEvent, joinOf } from "./filter-event.ts"
import { filterLeg } from "./filter-leg.ts"
import { filterParticipant } from "./filter-participant.ts"
import { filterRoom } from "./filter-room.ts"
import { type HandedOver, type HandOverError, type HandOverNeeds, handOver } from "./hand-over.ts"
import { Ignored } from "./ignored.ts"
import { movesNothing, onlyTells, type RecordNeeds, record, recordShared } from "./record.ts"
import { route } from "./route.ts"
import { release, selectTaker } from "./select-taker.ts"

/** Every way in which a webhook can end without a worker's or the ledger's answer. */
export type PipelineError = NotAuthentic | Ignored | Overloaded | HandOverError | DatabaseError

/** The answer of a worker or of the ledger; `replayed` where this delivery handed nothing over itself. */
export interface Dispatched {
  readonly end: HandedOver | Replay
  readonly replayed: boolean
}

export type PipelineNeeds = Keys | RecordNeeds | HandOverNeeds

const dispatchCall = Effect.fnUntraced(function* (
  call: Call,
): Effect.fn.Return<Dispatched, HandOverError, PipelineNeeds> {
  // A hand-over counts by itself, whoever waits for it.
  const { shared, value: end } = yield* aside(handOver(call))
  // The claim has kept what the other delivery said; this one may be a newer join.
  if (shared) yield* recordShared(call)
  const replayed = shared || end._tag !== "HandedOver"
  if (replayed) countReplay(shared ? "InFlightHere" : end._tag)
  return { end, replayed }
})

const callOf = Effect.fnUntraced(function* (event: WebhookEvent, authenticateMs: number) {
  const joined = yield* filterEvent(event)
  const sip = yield* filterParticipant(joined)
  const inRoom = yield* filterRoom(sip)
  const leg = yield* filterLeg(inRoom)
  const attributes = yield* didFallback(extractAttributes(leg))
  const { ms: routeMs, value: decision } = yield* measured("route")(route(attributes))
  const trail = {
    dialedFrom: dialedFrom(leg, attributes),
    trunkCarrier: (yield* TrunkDirectory).carrierOf(attributes.trunkId),
    tookMs: { authenticate: authenticateMs, route: routeMs },
  }
  const call: Call = { ...attributes, key: callKey(leg), leg, decision, trail }
  return call
})

/** Turns an event away that only tells a story, before it is written, where that is too much. */
const unlessTooMuch = Effect.fnUntraced(function* (event: WebhookEvent) {
  const load = yield* Load
  if (load.refuses("record") && onlyTells(event, yield* Settings)) yield* load.refuse("record")
})

/**
 * How a request ends that needs nobody and nothing, as most do: its event moves nothing, and is passed by, or it is not
 * LiveKit's. Else what it is, for `dispatch`; `undefined` where that is to look for itself.
 */
export const endAtOnce = (
  keys: Keys["Service"],
  request: SignedRequest,
): Ignored | Authentic | NotAuthentic | undefined => {
  if (isWatched) return undefined
  const known = authenticityOf(keys, request)
  if (known._tag !== "Authentic") return known
  const { event } = known
  const joined = joinOf(event)
  if (!(joined instanceof Ignored) || !movesNothing(event)) return known
  countEvent(event.event, joined._tag)
  return joined
}

// A generator function that is made for each event costs more than what it does: these are made once.
const stages = Effect.fnUntraced(function* (
  request: SignedRequest,
  seen: { event: string | undefined },
  known: Authentic | undefined,
): Effect.fn.Return<Dispatched, PipelineError, PipelineNeeds> {
  yield* failpoint("received", request.body)
  const { event, ms } = yield* authenticate(request, known)
  yield* failpoint("verified", request.body)
  seen.event = event.event
  yield* unlessTooMuch(event)
  if (!movesNothing(event)) yield* timed("record")(record(event, { claims: true }))
  yield* failpoint("recorded", request.body)
  const call = yield* callOf(event, ms)
  return yield* Effect.annotateLogs(dispatchCall(call), "call_id", call.callId || call.key)
})

/** Verifies, records, filters, extracts, routes, selects, claims, hands over; `known` as `endAtOnce` has seen it. */
export const dispatch = (
  request: SignedRequest,
  known?: Authentic,
): Effect.Effect<Dispatched, PipelineError, PipelineNeeds> =>
  Effect.suspend(() => {
    const seen: { event: string | undefined } = { event: undefined }
    return Effect.onExit(stages(request, seen, known), (exit) => {
      if (Exit.isSuccess(exit)) countEvent(seen.event, exit.value.replayed ? "Replayed" : "HandedOver")
      const error = Exit.findErrorOption(exit)
      // What is no event is counted where it is refused.
      if (Option.isSome(error) && seen.event !== undefined) countEvent(seen.event, error.value._tag)
      return Effect.void
    })
  })

/** What `dispatch` would do with an event: pass it by, or decide so, with or without somebody to take the call. */
export type Rehearsed =
  | { readonly ignored: { readonly stage: string; readonly why: string } }
  | {
      readonly outcome: "would be handed over" | "No fleet" | "No healthy fleet"
      readonly explanation: Explanation
      /** The same in sentences. */
      readonly why: ReadonlyArray<string>
    }

const decided = (...what: Parameters<typeof explain>) => {
  const explanation = explain(...what)
  return { explanation, why: whyOf(explanation, []) }
}

/** Verifies and decides like `dispatch`, and writes, claims and hands over nothing. */
export const rehearse = Effect.fnUntraced(function* (
  request: SignedRequest,
): Effect.fn.Return<Rehearsed, NotAuthentic, PipelineNeeds> {
  const { event, ms } = yield* authenticate(request)
  return yield* callOf(event, ms).pipe(
    Effect.flatMap((call) =>
      Effect.map(measured("select")(selectTaker(call.decision)), (selected) => ({ call, selected })),
    ),
    Effect.flatMap(({ call, selected: { ms, value } }): Effect.Effect<Rehearsed> => {
      if (Result.isFailure(value)) {
        const { _tag, considered } = value.failure
        const outcome = _tag === "NoFleet" ? "No fleet" : "No healthy fleet"
        return Effect.succeed({ outcome, ...decided(call, considered, ms) })
      }
      const { considered, place } = value.success
      return Effect.as(release(place), {
        outcome: "would be handed over",
        ...decided(call, considered, ms),
      })
    }),
    Effect.catchTag("Ignored", ({ stage, why }) => Effect.succeed<Rehearsed>({ ignored: { stage, why } })),
  )
})

/** What an event has changed, told by a URL that dispatches nothing. */
export interface Received {
  readonly event: WebhookEvent
  /** What became of the room's session; `undefined` where nothing, or where the database is away. */
  readonly session: SessionMoved | undefined
}

/** Every way in which an event that is only recorded can fail. */
export type ReceiveError = NotAuthentic | DatabaseError

/** Verifies and records, like `dispatch`, and hands nothing over. */
export const receive = Effect.fnUntraced(function* (
  request: SignedRequest,
): Effect.fn.Return<Received, ReceiveError, Keys | RecordNeeds> {
  const { event } = yield* authenticate(request)
  const session = yield* timed("record")(record(event, { claims: false })).pipe(
    Effect.tapError((error) => Effect.sync(() => countEvent(event.event, error._tag))),
  )
  countEvent(event.event, "Recorded")
  return { event, session }
})
