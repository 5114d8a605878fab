// What an answer of the webhook means, in the words of somebody who has never seen one.

import { Option, Schema } from "effect"
import { isOutbound } from "../dispatch/filter-leg.ts"
import { isSip } from "../dispatch/filter-participant.ts"
import { isCallRoom } from "../dispatch/filter-room.ts"
import type { WebhookEvent } from "../webhook/event.ts"
import type { Answered } from "./signing.ts"

/** `taken`: by a worker, now; `noted`: none is needed; `replayed`: nothing was sent again; or it `failed`. */
export interface Explanation {
  readonly kind: "taken" | "noted" | "replayed" | "failed"
  readonly means: string
  /** What to try where it is not what one wants. */
  readonly advice: string | undefined
}

/** The settings that decide which legs are calls; the service's, if it runs with the same. */
export type LegRules = Parameters<typeof isOutbound>[1]

const Problem = Schema.fromJsonString(Schema.Struct({ detail: Schema.String }))
const decodeProblem = Schema.decodeUnknownOption(Problem)

const Outcome = Schema.fromJsonString(
  Schema.Struct({
    replayed: Schema.Literal(true),
    outcome: Schema.String,
    status: Schema.optionalKey(Schema.Finite),
  }),
)
const decodeOutcome = Schema.decodeUnknownOption(Outcome)

const Agent = Schema.fromJsonString(Schema.Struct({ ok: Schema.Literal(true), agent_name: Schema.String }))
const decodeAgent = Schema.decodeUnknownOption(Agent)

const failed = (means: string, advice?: string): Explanation => ({ kind: "failed", means, advice })

const look = "The service's log says more; so does /readyz."

const problems: Record<string, Explanation> = {
  "Missing auth": failed(
    "The token did not arrive with the webhook.",
    "If there is a proxy in between, let it pass the Authorization header on.",
  ),
  "Invalid signature": failed(
    "The service does not accept the signature: it knows other keys, or the clocks are more than a minute apart.",
    "Set LIVEKIT_API_KEY and LIVEKIT_API_SECRET here to what the service runs with.",
  ),
  "Invalid payload": failed("The signature is right, but the body is no webhook event."),
  "Payload too large": failed("The body is larger than 1 MiB, which no webhook of LiveKit's is."),
  "No fleet": failed(
    "The service knows no worker, so nobody can take the call.",
    "Set CORE_FLEET to your workers' URLs and restart the service, or change the setting core_fleet.",
  ),
  "No healthy fleet": failed(
    "There are workers, but none that may take a call now: down, full or draining.",
    "The service's /readyz names the reason for each worker.",
  ),
  "No agent": failed(
    "LiveKit did not dispatch the agent; nothing was sent to anybody else.",
    "Are LIVEKIT_URL and the keys those of the LiveKit project? The log says how LiveKit answered.",
  ),
  "Source not allowed": failed(
    "The service takes webhooks from certain addresses only, and this one is none of them.",
    "See ALLOWED_SOURCES; behind a proxy, TRUSTED_PROXIES too.",
  ),
  "Too many requests": failed(
    "Too many requests without a valid signature came from this address within a minute.",
    "A validly signed one is never limited: are the keys right?",
  ),
  "Call in flight": failed("Another replica is handing this very call over; nothing was sent by this one."),
  "Database unavailable": failed(
    "Without its database the service cannot tell whether the call was handed over already.",
    `Is the database of DATABASE_URL running? ${look}`,
  ),
  Overloaded: failed(
    "The service has more to do than it can do soon, and did not begin with this; LiveKit would send it again.",
    "See MAX_IN_WORK, and switchhook_in_work in its /metrics.",
  ),
  "Dispatch failed": failed(
    "A worker was chosen, but did not answer, or answered with a redirect, or could not be reached.",
    `Look for "Dispatch failed" in the service's log.`,
  ),
  "Internal error": failed("A bug of the service.", "Its log has the error."),
  "There is nothing here": failed("The service has nothing under that path.", "Leave the path out of --url."),
}

const explainProblem = (detail: string): Explanation =>
  problems[detail] ?? failed(`The service says: ${detail}.`, look)

const explainForeign = (status: number): Explanation => {
  if (status >= 300 && status < 400) {
    return failed("A redirect, which LiveKit does not follow.", "Give the final address as --url.")
  }
  if (status === 429) {
    return failed("The worker turned the call down (full). It has removed the caller; nobody is asked again.")
  }
  if (status === 401 || status === 403) {
    return failed(
      "The worker refused the service; its answer is passed on as it came.",
      "CXB_CORE_SECRET must be what the worker expects.",
    )
  }
  return failed(
    "This is the worker's answer, passed on as it came: it did not take the call.",
    "If it is no worker's: is --url the address of Switchhook, and not of something else?",
  )
}

const explainReplay = (body: string): Explanation => {
  const stored = Option.getOrUndefined(decodeOutcome(body))
  const known: Record<string, string> = {
    rejected: `a worker turned this call down before${stored?.status === undefined ? "" : ` (${stored.status})`}`,
    ambiguous: "this call was sent to a worker before, whose answer never came",
    left: "the caller has left",
  }
  const agent = Option.getOrUndefined(decodeAgent(body))
  const why =
    (stored && known[stored.outcome]) ??
    (agent === undefined
      ? "this is what the worker said the first time"
      : `the agent ${agent.agent_name} has the call`)
  return {
    kind: "replayed",
    means: `Answered from the ledger: nothing was sent again; ${why}.`,
    advice: undefined,
  }
}

const whyNoWorker = (event: WebhookEvent | undefined, rules: LegRules): string | undefined => {
  if (event?.event !== "participant_joined" || event.participant === undefined) return "on this event"
  const { participant } = event
  if (!isSip(participant)) return "for a participant who is not on the phone (kind SIP)"
  if (!isCallRoom(event)) return "for a room whose name does not begin with call-"
  return isOutbound({ event, participant }, rules) ? "for an outbound leg" : undefined
}

const noted = (means: string, advice?: string): Explanation => ({ kind: "noted", means, advice })

const explainSuccess = (body: string, event: WebhookEvent | undefined, rules: LegRules): Explanation => {
  const why = whyNoWorker(event, rules)
  if (why !== undefined) return noted(`Acknowledged: no worker is asked ${why}.`)
  if (body.startsWith('{"success":true')) return noted("Recorded: this URL dispatches nothing.")
  const agent = Option.getOrUndefined(decodeAgent(body))
  if (agent !== undefined) {
    return { kind: "taken", means: `LiveKit dispatches the agent ${agent.agent_name}.`, advice: undefined }
  }
  if (body !== '{"ok":true}') return { kind: "taken", means: "A worker took the call.", advice: undefined }
  return noted(
    "Acknowledged: the service saw no call for a worker in it, or the worker says no more than this.",
    `Its log says "Dispatched" where a worker took the call. Is the trunk one of its outbound trunks?`,
  )
}

/** True for the statuses that LiveKit and the ledger take as a yes. */
export const isSuccess = ({ status }: Answered): boolean => status >= 200 && status < 300

/** Explains the answer to an event; `undefined` where the body was none. */
export const explain = (
  answered: Answered,
  event: WebhookEvent | undefined,
  rules: LegRules,
): Explanation => {
  if (isSuccess(answered)) {
    return answered.replayed ? explainReplay(answered.body) : explainSuccess(answered.body, event, rules)
  }
  if (answered.replayed) {
    return failed(
      "Another delivery of this call was under way, and this is what came of it: nothing was sent twice.",
    )
  }
  const problem = answered.contentType.startsWith("application/problem+json")
    ? Option.getOrUndefined(decodeProblem(answered.body))
    : undefined
  return problem === undefined ? explainForeign(answered.status) : explainProblem(problem.detail)
}

/** Whether LiveKit sends an event again that is answered so. */
export const isRetried = ({ status }: Answered): boolean =>
  status === 429 || (status >= 500 && status !== 501)
