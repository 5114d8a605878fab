// Stage 2: what a verified event says is kept before anything below answers. A call's own join is kept by the
// claim, in the same statement.

import { Effect } from "effect"
import { Settings } from "../config.ts"
import type { DatabaseError } from "../database/errors.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import type { LegEvent } from "./call.ts"
import { isOutbound } from "./filter-leg.ts"
import { isSip } from "./filter-participant.ts"
import { isCallRoom } from "./filter-room.ts"
import { Ledger } from "./ledger.ts"

const ends = new Set(["participant_left", "participant_connection_aborted"])

const legOf = (event: WebhookEvent): LegEvent | undefined =>
  event.participant !== undefined && isSip(event.participant) && isCallRoom(event)
    ? { event, participant: event.participant }
    : undefined

/** Writes the facts that the event brings; an event that moves nothing reaches no database. */
export const record = (event: WebhookEvent): Effect.Effect<void, DatabaseError, Ledger | Settings> => {
  const leg = legOf(event)
  if (leg === undefined) return Effect.void
  if (ends.has(event.event)) return Effect.flatMap(Ledger, (ledger) => ledger.recordLeave(leg))
  if (event.event !== "participant_joined") return Effect.void
  return Effect.flatMap(Settings, (settings) =>
    isOutbound(leg, settings) ? Effect.flatMap(Ledger, (ledger) => ledger.recordOutbound(leg)) : Effect.void,
  )
}
