// Stage 5: only rooms that our dispatch rules make. The prefix is theirs.

import { Effect } from "effect"
import type { LegEvent } from "../calls/call.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import { type Ignored, ignore } from "./ignored.ts"

const roomPrefix = "call-"

export const isCallRoom = (event: WebhookEvent): boolean => event.room.name.startsWith(roomPrefix)

export const filterRoom = (leg: LegEvent): Effect.Effect<LegEvent, Ignored> =>
  isCallRoom(leg.event) ? Effect.succeed(leg) : ignore("room", "not a call room")
