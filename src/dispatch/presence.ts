// Who is in the caller's room, by LiveKit's own word.

import { Effect, Result } from "effect"
import type { Call } from "../calls/call.ts"
import { mayAnswer } from "../calls/call-log.ts"
import { LiveKit, type LiveKitError, type RoomParticipant } from "../livekit/livekit.ts"

/** For asking LiveKit who is in the room. */
export const lookWithinMs = 2_000

/** What stands in `NotSent` where the room was found without the caller. */
export const callerGone = "caller has left"

/** Somebody can talk to the caller; the caller is alone; the caller is not there; nobody could be asked. */
export type Presence =
  | { readonly _tag: "Answered"; readonly by: RoomParticipant }
  | { readonly _tag: "Alone" }
  | { readonly _tag: "Gone" }
  | { readonly _tag: "Unknown"; readonly why: LiveKitError }

/** Without those who joined before `ghostsBeforeMs` (ms since 1970): the ghosts of a LiveKit that has crashed. */
export const withoutGhosts = (
  participants: ReadonlyArray<RoomParticipant>,
  ghostsBeforeMs: number | undefined,
): ReadonlyArray<RoomParticipant> =>
  participants.filter(({ joinedAtMs }) => joinedAtMs >= (ghostsBeforeMs ?? 0))

/** Asks LiveKit who is in the call's room; `withinMs` at most. Never fails: not to know is an answer, too. */
export const lookInRoom = (
  call: Call,
  ghostsBeforeMs: number | undefined,
  withinMs = lookWithinMs,
): Effect.Effect<Presence, never, LiveKit> =>
  Effect.gen(function* () {
    const livekit = yield* LiveKit
    const { event, participant: caller } = call.leg
    const asked = yield* Effect.result(livekit.participants(event.room.name, withinMs))
    if (Result.isFailure(asked)) return { _tag: "Unknown" as const, why: asked.failure }
    const present = withoutGhosts(asked.success, ghostsBeforeMs)
    if (!present.some(({ identity }) => identity === caller.identity)) return { _tag: "Gone" as const }
    const by = present.find((other) => other.identity !== caller.identity && mayAnswer(other))
    return by === undefined ? { _tag: "Alone" as const } : { _tag: "Answered" as const, by }
  })
