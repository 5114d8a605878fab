// What the parsers of Node and Deno let pass, and we do not.

import type { IncomingMessage } from "node:http"
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { Effect, type Layer } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import { countRefused, type RefusedReason } from "../metrics.ts"
import { problem } from "./answers.ts"

const hostsOf = ({ rawHeaders }: IncomingMessage): number => {
  let hosts = 0
  for (let at = 0; at < rawHeaders.length; at += 2)
    if (rawHeaders[at]?.length === 4 && rawHeaders[at]?.toLowerCase() === "host") hosts++
  return hosts
}

interface Fault {
  readonly status: number
  readonly detail: string
  readonly reason: RefusedReason
}

/** Why a request is refused before anything else is looked at, if it is. */
export const faultOf = (request: IncomingMessage, mostHeaders: number): Fault | undefined => {
  // Deno drops what is beyond the limit, and with it, it may be, what the request means.
  if (request.rawHeaders.length / 2 > mostHeaders)
    return { status: 431, detail: "There are too many headers", reason: "headers" }
  if (request.httpVersionMajor < 1)
    return { status: 400, detail: "HTTP/0.9 is not spoken here", reason: "malformed" }
  const hosts = hostsOf(request)
  // One is needed in HTTP/1.1, and which of two is meant, nobody knows.
  if (hosts > 1 || (hosts === 0 && request.httpVersionMinor > 0))
    return { status: 400, detail: "There must be one Host header", reason: "malformed" }
  return undefined
}

/** Refuses what is HTTP only by somebody's leniency, on every path. */
export const wellFormedOnly: Layer.Layer<never, never, HttpRouter.HttpRouter | Settings> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const { limits } = yield* Settings
    yield* router.addGlobalMiddleware((answer) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
        const incoming = NodeHttpServerRequest.toIncomingMessage(request) as IncomingMessage
        const fault = faultOf(incoming, limits.headers)
        if (fault === undefined) return answer
        const refusal = HttpServerResponse.setHeader(
          problem(fault.status, fault.detail),
          "Connection",
          "close",
        )
        countRefused(fault.reason)
        return Effect.succeed(refusal)
      }),
    )
  }),
)
