// Stage 2: what a verified event says is kept before anything below answers, whichever URL it came to. A call's own
// join, where it is about to be handed over, is kept by the claim, in the same statement.

import { Effect } from "effect"
import { type Call, callKey, type LegEvent } from "../calls/call.ts"
import { CallLog, mayAnswer } from "../calls/call-log.ts"
import type { TrunkDirectory } from "../carriers/trunk-directory.ts"
import { Settings, type SettingsShape } from "../config.ts"
import { Backlog } from "../database/backlog.ts"
import type { DatabaseError } from "../database/errors.ts"
import type { Routing } from "../routing/routing.ts"
import { type SessionMoved, Sessions } from "../sessions/sessions.ts"
import type { EventParticipant, WebhookEvent } from "../webhook/event.ts"
import { didFallback } from "./did-fallback.ts"
import { extractAttributes } from "./extract-attributes.ts"
import { isOutbound, lacksRule } from "./filter-leg.ts"
import { isSip } from "./filter-participant.ts"
import { isCallRoom } from "./filter-room.ts"
import { Ledger } from "./ledger.ts"
import { route } from "./route.ts"

/** The name of an event's record in the journal. */
export const eventRecord = "event"

export type RecordNeeds = Backlog | CallLog | Ledger | Sessions | Settings | TrunkDirectory | Routing

// How others spell LiveKit's names once the dots are gone.
const synonyms: Record<string, string> = {
  room_created: "room_started",
  room_closed: "room_finished",
  room_ended: "room_finished",
  participant_connected: "participant_joined",
  participant_disconnected: "participant_left",
}

const nameOf = ({ event }: WebhookEvent) => {
  const name = event.replaceAll(".", "_")
  return synonyms[name] ?? name
}

const toCall = Effect.fnUntraced(function* (leg: LegEvent) {
  const attributes = yield* didFallback(extractAttributes(leg))
  return { ...attributes, key: callKey(leg), leg, decision: yield* route(attributes) }
})

const recordJoin = Effect.fnUntraced(function* (leg: LegEvent, claimed: boolean) {
  const log = yield* CallLog
  const rules = yield* Settings
  if (isSip(leg.participant)) {
    if (isOutbound(leg, rules)) yield* log.recordOutbound(leg)
    else if (!claimed && !lacksRule(leg, rules)) yield* log.recordJoin(yield* toCall(leg))
  }
  if (mayAnswer(leg.participant)) yield* log.recordAnswerer(leg)
})

const recordEnd = Effect.fnUntraced(function* (leg: LegEvent, aborted: boolean) {
  const log = yield* CallLog
  const rules = yield* Settings
  if (isSip(leg.participant) && !isOutbound(leg, rules)) {
    yield* log.recordLeave(yield* toCall(leg), { aborted })
  }
  // Whose connection was aborted has never answered anybody.
  if (!aborted && mayAnswer(leg.participant)) yield* log.recordAnswerer(leg, leg.event.createdAtMs)
})

const inRoom = (
  event: WebhookEvent,
  participant: EventParticipant,
  claims: boolean,
): Effect.Effect<void, DatabaseError, RecordNeeds> => {
  const leg: LegEvent = { event, participant }
  switch (nameOf(event)) {
    case "participant_joined":
      return isCallRoom(event)
        ? recordJoin(leg, claims && event.event === "participant_joined")
        : Effect.flatMap(Sessions, (sessions) => sessions.seen(event))
    case "participant_left":
      return isCallRoom(event) ? recordEnd(leg, false) : Effect.void
    case "participant_connection_aborted":
      return isCallRoom(event) ? recordEnd(leg, true) : Effect.void
    default:
      return Effect.void
  }
}

const writeFor = (
  event: WebhookEvent,
  claims: boolean,
): Effect.Effect<SessionMoved | undefined, DatabaseError, RecordNeeds> | undefined => {
  if (event.room.sid === "" && event.room.name === "") return undefined
  switch (nameOf(event)) {
    case "room_started":
      return Effect.flatMap(Sessions, (sessions) => sessions.started(event))
    case "room_finished":
      return Effect.flatMap(Sessions, (sessions) => sessions.finished(event))
    case "participant_joined":
    case "participant_left":
    case "participant_connection_aborted":
      return event.participant === undefined
        ? undefined
        : Effect.as(inRoom(event, event.participant, claims), undefined)
    default:
      return undefined
  }
}

/** True for an event that reaches no database: whatever it says, nothing follows from it. */
export const movesNothing = (event: WebhookEvent): boolean => writeFor(event, true) === undefined

/**
 * True for an event that is written for its own sake: no caller waits for it. A room's start is not one, for LiveKit
 * sends the caller's join only once that is answered, and an event that moves nothing takes no time to answer.
 */
export const onlyTells = (event: WebhookEvent, rules: SettingsShape): boolean => {
  const { participant } = event
  switch (nameOf(event)) {
    case "room_started":
      return !isCallRoom(event)
    case "room_finished":
      return true
    case "participant_joined":
      if (participant === undefined) return false
      if (!isCallRoom(event)) return true
      return isSip(participant)
        ? event.event !== "participant_joined" || isOutbound({ event, participant }, rules)
        : mayAnswer(participant)
    case "participant_left":
    case "participant_connection_aborted":
      return participant !== undefined && isCallRoom(event) && (isSip(participant) || mayAnswer(participant))
    default:
      return false
  }
}

const ends = new Set(["participant_left", "participant_connection_aborted"])

const noteLeave = (event: WebhookEvent): Effect.Effect<void, never, Ledger | Settings> => {
  const { participant } = event
  if (participant === undefined || !ends.has(nameOf(event)) || !isSip(participant)) return Effect.void
  return Effect.gen(function* () {
    const ledger = yield* Ledger
    const leg = { event, participant }
    if (!isOutbound(leg, yield* Settings)) ledger.callerLeft(callKey(leg), participant.joinedAtMs)
  })
}

/**
 * Writes the facts that the event brings; one that moves nothing reaches no database, and what a database that is
 * away cannot take now is kept for later. `claims`: the caller's own join is written by the claim that follows.
 * Returns what became of the room's session, where that was asked and is known.
 */
export const record = (
  event: WebhookEvent,
  { claims }: { readonly claims: boolean },
): Effect.Effect<SessionMoved | undefined, DatabaseError, RecordNeeds> => {
  const write = writeFor(event, claims)
  if (write === undefined) return Effect.succeed(undefined)
  const body = { event, claims }
  return Effect.andThen(
    noteLeave(event),
    Effect.flatMap(Backlog, (backlog) =>
      backlog.write({ kind: "story", what: eventRecord, names: [], body }, write),
    ),
  )
}

/** Writes the facts of an event that was kept while the database was away. */
export const writeEvent = (
  event: WebhookEvent,
  claims: boolean,
): Effect.Effect<unknown, DatabaseError, RecordNeeds> => writeFor(event, claims) ?? Effect.void

/** Writes the join of a delivery that shared another one's hand-over, and with it that one's claim. */
export const recordShared = ({ leg }: Call): Effect.Effect<void, never, RecordNeeds> =>
  Effect.ignore(record(leg.event, { claims: false }))

/**
 * Writes that the caller is gone, as LiveKit has said when it was asked: its own webhook, which knows when, waits
 * behind this one, or is lost.
 */
export const recordGone = ({ leg }: Call): Effect.Effect<void, never, RecordNeeds> => {
  const attributes = new Map(leg.participant.attributes)
  attributes.delete("sip.callStatus")
  const participant = { ...leg.participant, attributes }
  const event = { ...leg.event, event: "participant_left", createdAtMs: Date.now(), participant }
  return Effect.ignore(record(event, { claims: false }))
}
