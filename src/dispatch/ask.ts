// Somebody asks which agent to dispatch for a call, and will dispatch it: so the answer is a claim of the call.

import { Effect, Option, Schema } from "effect"
import { indexed, meetingOf } from "../calls/call.ts"
import { TrunkDirectory } from "../carriers/trunk-directory.ts"
import { Settings } from "../config.ts"
import { maskNumber } from "../masking.ts"
import { type Decision, decide } from "../routing/decision.ts"
import { Routing } from "../routing/routing.ts"
import { InvalidPayload } from "../webhook/event.ts"
import { tellRoute } from "./hand-over.ts"
import { type Asked, Ledger } from "./ledger.ts"

export type AskNeeds = Ledger | Routing | Settings | TrunkDirectory

const absent = Schema.optionalKey(Schema.NullOr(Schema.String))

const Question = Schema.Struct({
  call_id: Schema.NonEmptyString,
  from_number: Schema.String,
  to_number: Schema.String,
  trunk_id: absent,
  trunk_phone_number: absent,
  room_name: absent,
  timestamp: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.String, Schema.Finite]))),
})
const decodeQuestion = Schema.decodeUnknownOption(Question)

/** What whoever asks is told; nothing stops a call, so an error stands beside an agent's name. */
export interface AgentAnswer {
  /** Empty where nobody may be dispatched. */
  readonly agent_name: string
  /** JSON. */
  readonly metadata: string
  readonly attributes: Decision["attributes"]
  readonly error?: string
}

const utf8 = new TextDecoder()

const parse = (body: Uint8Array): Effect.Effect<unknown, InvalidPayload> =>
  Effect.try({
    try: (): unknown => JSON.parse(utf8.decode(body)),
    catch: () => new InvalidPayload({ why: "not JSON" }),
  })

/** The answer that a decision is, before anybody else's claim is known. */
export const toAnswer = (decision: Decision, error: string | undefined = decision.error): AgentAnswer => ({
  agent_name: decision.agent.name,
  metadata: decision.metadata,
  attributes: decision.attributes,
  ...(error === undefined ? {} : { error }),
})

const answerAsked = (decision: Decision, asked: Asked): AgentAnswer => {
  switch (asked._tag) {
    case "GivenTo":
      return {
        ...toAnswer(decision),
        agent_name: asked.agent,
        metadata: asked.metadata ?? decision.metadata,
      }
    case "TakenAlready":
      return { ...toAnswer(decision, "Call already taken"), agent_name: "" }
    case "CallerLeft":
      return { ...toAnswer(decision, "Caller has left"), agent_name: "" }
  }
}

// Whatever there is of the question goes back with the default agent.
const invalidAnswer = (question: unknown, settings: Settings["Service"]) => {
  const given =
    typeof question === "object" && question !== null ? new Map(Object.entries(question)) : new Map()
  const text = (name: string): string => {
    const value: unknown = given.get(name)
    return typeof value === "string" ? value : ""
  }
  const inquiry = { from: text("from_number"), to: text("to_number"), trunkId: text("trunk_id") }
  return toAnswer(decide(inquiry, { _tag: "Unknown" }, settings), "Invalid payload")
}

const answerQuestion = Effect.fnUntraced(function* (question: typeof Question.Type) {
  const { call_id: askedId, from_number: from } = question
  const ledger = yield* Ledger
  const trunks = yield* TrunkDirectory
  const routing = yield* Routing
  const trunkId = question.trunk_id ?? ""
  const dialed = question.to_number || question.trunk_phone_number || trunks.firstDidOf(trunkId) || ""
  const roomName = question.room_name ?? ""
  const decision = yield* routing.decide({ from, to: dialed, trunkId })
  yield* Effect.logInfo("Inbound call received", {
    caller: maskNumber(from),
    dialed: maskNumber(dialed),
    asked: true,
  })
  yield* tellRoute({ ...decision, target: "agent" })
  const meeting = meetingOf(roomName, decision.callerE164 ?? from)
  const later = JSON.stringify({ ok: true, agent_name: decision.agent.name })
  const { answerWithinMs } = yield* Settings
  const call = { askedId, roomName, from, to: dialed, trunkId }
  const about = { ...call, key: indexed(askedId), meeting, decision, answerWithinMs }
  // What the number is will be found out when the database is back.
  const asked = yield* ledger
    .ask(about, later, { unknown: decision.error === "Database error" })
    .pipe(
      Effect.catch((error) =>
        Effect.as(Effect.logError("Call log not written", { why: error.message }), undefined),
      ),
    )
  const answer = asked === undefined ? toAnswer(decision) : answerAsked(decision, asked)
  if (asked?._tag === "GivenTo" && asked.now) yield* Effect.logInfo("Dispatched", { agent: asked.agent })
  return answer
})

/**
 * Which agent to dispatch for the call in this body, whose signature has been checked. Fails with `InvalidPayload`
 * only where the body is not JSON.
 */
export const ask = Effect.fnUntraced(function* (
  body: Uint8Array,
): Effect.fn.Return<AgentAnswer, InvalidPayload, AskNeeds> {
  const settings = yield* Settings
  const json = yield* parse(body)
  const question = decodeQuestion(json)
  if (Option.isNone(question)) {
    yield* Effect.logWarning("Question about a call not understood: a field is missing or of the wrong type")
    return invalidAnswer(json, settings)
  }
  return yield* Effect.annotateLogs(answerQuestion(question.value), "call_id", question.value.call_id)
})
