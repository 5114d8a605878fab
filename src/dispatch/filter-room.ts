// Stage 5: only rooms that our dispatch rules make.

import { Effect } from "effect"
import type { LegEvent } from "../calls/call.ts"
import { callPrefix } from "../carriers/provisioning.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import { type Ignored, ignore } from "./ignored.ts"

export const isCallRoom = (event: WebhookEvent): boolean => event.room.name.startsWith(callPrefix)

export const filterRoom = (leg: LegEvent): Effect.Effect<LegEvent, Ignored> =>
  isCallRoom(leg.event) ? Effect.succeed(leg) : ignore("room", "not a call room")
