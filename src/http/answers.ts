// The one table from how a webhook ended to what its sender is told.

import { HttpServerResponse, ProblemDetails } from "effect/http"
import type { HandedOver } from "../dispatch/hand-over.ts"
import type { Dispatched, PipelineError } from "../dispatch/pipeline.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"

/** The body was larger than 1 MiB. */
export interface TooLarge {
  readonly _tag: "TooLarge"
}

type End = Dispatched["end"] | PipelineError | TooLarge
type Answer = HttpServerResponse.HttpServerResponse

const titles: Record<number, string> = {
  400: "Bad Request",
  401: "Unauthorized",
  404: "Not Found",
  405: "Method Not Allowed",
  413: "Content Too Large",
  500: "Internal Server Error",
  502: "Bad Gateway",
  503: "Service Unavailable",
}

/** An error of our own, RFC 9457. Never with `Retry-After`: it would replace LiveKit's own, longer pauses. */
export const problem = (status: number, detail: string): Answer =>
  ProblemDetails.toResponse({ type: "about:blank", title: titles[status] ?? "Error", status, detail })

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

const answers: { readonly [Tag in End["_tag"]]: (end: Extract<End, { _tag: Tag }>) => Answer } = {
  MissingAuth: () => problem(401, "Missing auth"),
  InvalidSignature: () => problem(401, "Invalid signature"),
  InvalidPayload: () => problem(400, "Invalid payload"),
  TooLarge: () => problem(413, "Payload too large"),
  Ignored: () => ok,
  NoFleet: () => problem(503, "No fleet"),
  NoHealthyFleet: () => problem(503, "No healthy fleet"),
  InFlightElsewhere: () => problem(503, "Call in flight"),
  DatabaseUnavailable: () => problem(503, "Database unavailable"),
  QueryRefused: () => problem(503, "Database unavailable"),
  DispatchFailed: () => problem(502, "Dispatch failed"),
  HandedOver: ({ answer }: HandedOver) => asItCame(answer, answer.status),
  AlreadyAccepted: ({ answer }) => asItCame(answer, 200),
  AlreadyRejected: ({ answer }) => replay("rejected", { status: answer.status, body: readable(answer) }),
  StillUncertain: () => replay("ambiguous"),
  CallerLeft: () => replay("left"),
}

/** The answer for an end; a replayed one says so in `Switchhook-Replayed`. */
export const answer = (end: End, replayed = false): Answer => {
  const response = (answers[end._tag] as (end: End) => Answer)(end)
  return replayed ? HttpServerResponse.setHeader(response, "Switchhook-Replayed", "true") : response
}
