// A trial of the number decision: the real one, for a call that nobody makes.

import { Effect, Option, Schema } from "effect"
import { callKey, type LegEvent } from "../calls/call.ts"
import { CallLog } from "../calls/call-log.ts"
import type { DatabaseError } from "../database/errors.ts"
import { Routing } from "../routing/routing.ts"
import { InvalidPayload } from "../webhook/event.ts"
import { type AgentAnswer, toAnswer } from "./ask.ts"

export type TrialNeeds = CallLog | Routing

const Trial = Schema.fromJsonString(
  Schema.Struct({
    to_number: Schema.String,
    from_number: Schema.String,
    persist: Schema.optionalKey(Schema.Boolean),
  }),
)
const decodeTrial = Schema.decodeUnknownOption(Trial)

const madeUpLeg = (now: number): LegEvent => {
  const callId = `test-${now}`
  const participant = {
    sid: "",
    identity: "test",
    kind: "SIP",
    joinedAtMs: now,
    attributes: new Map([["sip.callID", callId]]),
    disconnectReason: "",
  }
  const room = { sid: "", name: `test-room-${now}`, creationTimeMs: now }
  return {
    participant,
    event: { event: "participant_joined", id: "", createdAtMs: now, room, participant },
  }
}

const utf8 = new TextDecoder()

/**
 * What the numbers in this body (`to_number`, `from_number`) decide. Writes nothing, unless `persist` is true: then
 * the lead and a row of the call log. Fails with `InvalidPayload` where the body is none.
 */
export const tryNumbers = Effect.fnUntraced(function* (
  body: Uint8Array,
): Effect.fn.Return<AgentAnswer, InvalidPayload | DatabaseError, TrialNeeds> {
  const trial = decodeTrial(utf8.decode(body))
  if (Option.isNone(trial)) return yield* Effect.fail(new InvalidPayload({ why: "not a test" }))
  const { from_number: from, persist, to_number: to } = trial.value
  const routing = yield* Routing
  const decision = yield* routing.decide({ from, to, trunkId: "" })
  if (persist === true) {
    const log = yield* CallLog
    const leg = madeUpLeg(Date.now())
    const callId = callKey(leg)
    const call = { key: callId, leg, callId, callerNumber: from, dialedNumber: to, trunkId: "", decision }
    yield* Effect.annotateLogs(log.recordJoin(call), "call_id", callId)
  }
  return toAnswer(decision)
})
