// Stage 3: only a participant who has joined can be a call that rings.

import { Effect } from "effect"
import type { LegEvent } from "../calls/call.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import { Ignored } from "./ignored.ts"

const notAJoin = new Ignored({ stage: "event", why: "not a join" })

/** The join of a participant, or why it is none. */
export const joinOf = (event: WebhookEvent): LegEvent | Ignored =>
  event.event === "participant_joined" && event.participant !== undefined
    ? { event, participant: event.participant }
    : notAJoin

export const filterEvent = (event: WebhookEvent): Effect.Effect<LegEvent, Ignored> => {
  const joined = joinOf(event)
  return "_tag" in joined ? Effect.fail(joined) : Effect.succeed(joined)
}
