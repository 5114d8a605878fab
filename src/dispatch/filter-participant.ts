// Stage 4: only SIP participants are calls.

import { Effect } from "effect"
import type { LegEvent } from "../calls/call.ts"
import type { EventParticipant } from "../webhook/event.ts"
import { type Ignored, ignore } from "./ignored.ts"

export const isSip = (participant: EventParticipant): boolean => participant.kind === "SIP"

export const filterParticipant = (leg: LegEvent): Effect.Effect<LegEvent, Ignored> =>
  isSip(leg.participant) ? Effect.succeed(leg) : ignore("participant", "not SIP")
