// Stage 3: only a participant who has joined can be a call that rings.

import { Effect } from "effect"
import type { LegEvent } from "../calls/call.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import { type Ignored, ignore } from "./ignored.ts"

export const filterEvent = (event: WebhookEvent): Effect.Effect<LegEvent, Ignored> =>
  event.event === "participant_joined" && event.participant !== undefined
    ? Effect.succeed({ event, participant: event.participant })
    : ignore("event", "not a join")
