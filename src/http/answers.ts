// The one table from how a webhook ended to what its sender is told.

import { randomInt } from "node:crypto"
import { Effect } from "effect"
import { HttpServerResponse, ProblemDetails } from "effect/http"
import type { HandedOver } from "../dispatch/hand-over.ts"
import type { Dispatched, PipelineError, Received } from "../dispatch/pipeline.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import type { Overloaded } from "../load.ts"
import type { InvalidSignature } from "../webhook/signature.ts"

/** The body is larger than `MAX_BODY_SIZE`. */
export interface TooLarge {
  readonly _tag: "TooLarge"
}

/** Large bodies from everybody together are more than `MAX_BODIES_SIZE`. */
export interface TooMuchAtOnce {
  readonly _tag: "TooMuchAtOnce"
}

/** The sender hung up or sent something that is no HTTP. */
export interface BrokenOff {
  readonly _tag: "BrokenOff"
}

/** The sender's address is none of `ALLOWED_SOURCES`. */
export interface SourceNotAllowed {
  readonly _tag: "SourceNotAllowed"
}

/** Too much came from one source without a valid signature. */
export interface RateLimited {
  readonly _tag: "RateLimited"
  readonly retryAfterSeconds: number
}

/** A bug of ours. */
export interface Unexpected {
  readonly _tag: "Unexpected"
}

/** Every failure before, and beside, what the pipeline itself fails with. */
export type Refusal =
  | TooLarge
  | TooMuchAtOnce
  | BrokenOff
  | SourceNotAllowed
  | RateLimited
  | Overloaded
  | Unexpected

type Success = Dispatched["end"] | Extract<PipelineError, { _tag: "Ignored" }>
type Failure = Exclude<PipelineError, Success> | Refusal
type Answer = HttpServerResponse.HttpServerResponse

/** The reason phrases of the statuses that are ours. */
export const titles: Readonly<Record<number, string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  408: "Request Timeout",
  413: "Content Too Large",
  417: "Expectation Failed",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  502: "Bad Gateway",
  503: "Service Unavailable",
}

const problemOf = (status: number, detail: string) => ({
  type: "about:blank",
  title: titles[status] ?? "Error",
  status,
  detail,
})

/** An error of our own, RFC 9457. Never with `Retry-After`: it would replace LiveKit's own, longer pauses. */
export const problem = (status: number, detail: string): Answer =>
  ProblemDetails.toResponse(problemOf(status, detail))

/** The same, as it stands in the body. */
export const problemBody = (status: number, detail: string): string =>
  JSON.stringify(problemOf(status, detail))

/** How a failure is told: the status, the words, and the code of the URL that has codes. */
interface Telling {
  readonly status: number
  readonly detail: string
  readonly code: string
}

const unavailable = "E_WEBHOOK_UNAVAILABLE"

const failures: { readonly [Tag in Failure["_tag"]]: Telling } = {
  MissingAuth: { status: 401, detail: "Missing auth", code: "E_WEBHOOK_MISSING_AUTH" },
  InvalidSignature: { status: 401, detail: "Invalid signature", code: "E_WEBHOOK_INVALID_SIGNATURE" },
  InvalidPayload: { status: 400, detail: "Invalid payload", code: "E_WEBHOOK_INVALID_PAYLOAD" },
  BrokenOff: { status: 400, detail: "The request broke off", code: "E_WEBHOOK_INVALID_PAYLOAD" },
  SourceNotAllowed: { status: 403, detail: "Source not allowed", code: "E_WEBHOOK_SOURCE_NOT_ALLOWED" },
  TooLarge: { status: 413, detail: "Payload too large", code: "E_WEBHOOK_PAYLOAD_TOO_LARGE" },
  TooMuchAtOnce: { status: 429, detail: "Too many large requests at once", code: "E_WEBHOOK_RATE_LIMITED" },
  RateLimited: { status: 429, detail: "Too many requests", code: "E_WEBHOOK_RATE_LIMITED" },
  Unexpected: { status: 500, detail: "Internal error", code: "E_WEBHOOK_INTERNAL" },
  DispatchFailed: { status: 502, detail: "Dispatch failed", code: unavailable },
  NoFleet: { status: 503, detail: "No fleet", code: unavailable },
  NoHealthyFleet: { status: 503, detail: "No healthy fleet", code: unavailable },
  NoAgent: { status: 503, detail: "No agent", code: unavailable },
  InFlightElsewhere: { status: 503, detail: "Call in flight", code: unavailable },
  Overloaded: { status: 503, detail: "Overloaded", code: unavailable },
  DatabaseUnavailable: { status: 503, detail: "Database unavailable", code: unavailable },
  QueryRefused: { status: 503, detail: "Database unavailable", code: unavailable },
}

const withHeaders = (failure: Failure, response: Answer): Answer => {
  switch (failure._tag) {
    // Only whoever is not validly signed is ever told when to come back.
    case "RateLimited":
      return HttpServerResponse.setHeader(response, "Retry-After", String(failure.retryAfterSeconds))
    // The rest of the body is not read.
    case "TooLarge":
    case "TooMuchAtOnce":
      return HttpServerResponse.setHeader(response, "Connection", "close")
    default:
      return response
  }
}

/** A failure as problem details. */
export const failureAnswer = (failure: Failure): Answer => {
  const { detail, status } = failures[failure._tag]
  return withHeaders(failure, problem(status, detail))
}

const reasonOf = (failure: Failure, detail: string) =>
  failure._tag === "InvalidSignature"
    ? `Webhook verification failed: ${(failure satisfies InvalidSignature).why}`
    : detail

// A letter at every other place: a run of digits would be masked in the log, as if it were a phone number.
const letters = "abcdefghijklmnopqrstuvwxyz"
const lettersAndDigits = `${letters}0123456789`
const makeErrorId = () =>
  Array.from({ length: 10 }, (_, place) => {
    const from = place % 2 === 0 ? letters : lettersAndDigits
    return from[randomInt(from.length)]
  }).join("")

const ofFloods = new Set<Failure["_tag"]>(["RateLimited", "Overloaded", "TooMuchAtOnce"])

/** A failure as the session URL tells it; its id stands in the log, too. */
export const sessionFailure = (failure: Failure): Effect.Effect<Answer> => {
  const { code, detail, status } = failures[failure._tag]
  const erresid = makeErrorId()
  const errmesg = reasonOf(failure, detail)
  const body = { success: false, errcode: code, erresid, errmesg }
  const response = withHeaders(failure, HttpServerResponse.jsonUnsafe(body, { status }))
  // Whoever floods us, and is refused for that, must not fill the log as well.
  const tell = ofFloods.has(failure._tag) ? Effect.logDebug : Effect.logWarning
  return Effect.as(tell("Session webhook failed", { errcode: code, erresid, errmesg }), response)
}

/** What the session URL says of an event: what became of the room's session, or that nothing did. */
export const sessionAnswer = ({ event, session }: Received): Answer =>
  HttpServerResponse.jsonUnsafe({
    success: true,
    results: {
      processed: true,
      action: session !== undefined && session.from !== session.to ? "status_updated" : "logged",
      room_id: event.room.name,
      old_status: session?.from ?? null,
      new_status: session?.to ?? null,
      event_type: event.event,
    },
  })

const ok = HttpServerResponse.jsonUnsafe({ ok: true })

const replay = (outcome: string, more: object = {}): Answer =>
  HttpServerResponse.jsonUnsafe({ ok: true, replayed: true, outcome, ...more })

const asItCame = ({ body, contentType }: WorkerAnswer, status: number): Answer =>
  // A 204 has no body by HTTP's own rules.
  status === 204
    ? HttpServerResponse.empty({ status })
    : HttpServerResponse.uint8Array(body, { status, contentType: contentType || "application/octet-stream" })

const readable = ({ body }: WorkerAnswer): unknown => {
  const text = new TextDecoder().decode(body)
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

const successes: { readonly [Tag in Success["_tag"]]: (end: Extract<Success, { _tag: Tag }>) => Answer } = {
  Ignored: () => ok,
  HandedOver: ({ answer }: HandedOver) => asItCame(answer, answer.status),
  AlreadyAccepted: ({ answer }) => asItCame(answer, 200),
  AlreadyRejected: ({ answer }) => replay("rejected", { status: answer.status, body: readable(answer) }),
  StillUncertain: () => replay("ambiguous"),
  CallerLeft: () => replay("left"),
}

const isFailure = (end: Success | Failure): end is Failure => end._tag in failures

/** The answer for an end; a replayed one says so in `Switchhook-Replayed`. */
export const answer = (end: Success | Failure, replayed = false): Answer => {
  const response = isFailure(end)
    ? failureAnswer(end)
    : (successes[end._tag] as (end: Success) => Answer)(end)
  return replayed ? HttpServerResponse.setHeader(response, "Switchhook-Replayed", "true") : response
}
