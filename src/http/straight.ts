// The way of nearly every webhook: straight from the server to the pipeline and back, without the router.
//
// Taken is what LiveKit sends: a signed POST to a webhook's very path with a small body of declared length, while there
// is not too much to do. Whatever differs in anything is left to the router, which knows what to say to it.

import type { EventEmitter } from "node:events"
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import { type Context, Effect } from "effect"
import { Settings, type SettingsShape } from "../config.ts"
import { type Kind, Load } from "../load.ts"
import { type BrokenOff, failureAnswer } from "./answers.ts"
import { free } from "./bodies.ts"
import { RateLimit } from "./rate-limit.ts"
import {
  type Answer,
  concluded,
  type Headers,
  type Posted,
  type Sender,
  tooMuchAs,
  vouchFor,
} from "./receiving.ts"
import { isAllowed, type Source, sourceOf } from "./source.ts"
import { faultOf } from "./well-formed.ts"

/** Whether the server's part is done: the request is answered, or will be. */
export type Take = (incoming: IncomingMessage, response: ServerResponse) => boolean

const brokenOff: BrokenOff = { _tag: "BrokenOff" }

/** Hears the body of a request, once: all of it, or `undefined` where it broke off. */
const hear = (incoming: IncomingMessage, heard: (body: Uint8Array | undefined) => void): void => {
  const pieces: Array<Uint8Array> = []
  let over = false
  const end = (whole: boolean) => {
    if (over) return
    over = true
    heard(whole ? (pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)) : undefined)
  }
  incoming.on("data", (piece: Uint8Array) => pieces.push(piece))
  incoming.on("end", () => end(true))
  incoming.on("error", () => end(false))
  incoming.on("close", () => end(false))
}

const isFinal = (status: number) => status >= 200 && status <= 599

/** Writes an answer, as the router's server would. */
const send = (response: ServerResponse, answer: Answer): void => {
  if (response.destroyed || response.writableEnded) return
  const { body, headers, status } = answer
  if (status === 204 || status === 205 || status === 304 || body._tag !== "Uint8Array") {
    const { "content-length": _, ...rest } = headers
    response.writeHead(status, rest).end()
    return
  }
  response.writeHead(status, headers).end(body.text ?? body.body)
}

const unexpected = failureAnswer({ _tag: "Unexpected" })

/** The same for an answer that may be somebody else's: of what HTTP cannot say there is only that it went wrong. */
const sendAny = (response: ServerResponse, answer: Answer): void => {
  try {
    send(response, isFinal(answer.status) ? answer : unexpected)
  } catch {
    if (response.headersSent) response.destroy()
    else send(response, unexpected)
  }
}

/** Whose request it is, where it may be taken. */
const takenFrom = (
  incoming: IncomingMessage,
  isSigned: (headers: Headers) => boolean,
  { allowedSources, limits, trustedProxies }: SettingsShape,
): Source | undefined => {
  const { headers } = incoming
  const length = headers["content-length"]
  if (length === undefined || !(Number(length) <= Math.min(free, limits.bodySize))) return undefined
  if (!isSigned(headers) || faultOf(incoming, limits.headers) !== undefined) return undefined
  const forwardedFor = headers["x-forwarded-for"]
  if (Array.isArray(forwardedFor)) return undefined
  const source = sourceOf(incoming.socket.remoteAddress, forwardedFor, trustedProxies)
  return isAllowed(source, allowedSources) ? source : undefined
}

/** The same, where a mistake of ours must come to light in the work, which tells of it and answers. */
const orLater = <A>(now: () => A): A | undefined => {
  try {
    return now()
  } catch {
    return undefined
  }
}

/** What answers a request with that body, `undefined` where it broke off: whatever comes of it, there is an answer. */
export type AnswerTo<R> = (
  body: Uint8Array | undefined,
  headers: Headers,
  sender: Sender,
) => Answer | { readonly later: Effect.Effect<Answer, never, R> }

/** A URL as it is seen from here. */
export interface Straight<R> {
  readonly kind: Kind
  readonly isSigned: (headers: Headers) => boolean
  readonly answerWith: (context: Context.Context<R>, limit: RateLimit["Service"]) => AnswerTo<R>
}

export const straight = <E extends { readonly _tag: string }, R>(posted: Posted<E, R>): Straight<R> => ({
  kind: posted.kind,
  isSigned: posted.isSigned,
  answerWith: (context, limit) => {
    const atOnce = posted.atOnce?.(context)
    return (body, headers, sender) => {
      const later = (work: Effect.Effect<Answer, E | BrokenOff, R>) => ({
        later: concluded<E, R>(posted, limit, sender, work),
      })
      if (body === undefined) return later(Effect.fail(brokenOff))
      const known = orLater(() => atOnce?.(body, headers))
      if (known === undefined) return later(posted.work(body, headers))
      if ("left" in known) return later(known.left)
      vouchFor(limit, sender)
      return known
    }
  },
})

/** Takes the URLs by their paths. */
export const makeTake = <R>(
  urls: ReadonlyMap<string, Straight<R>>,
): Effect.Effect<Take, never, R | RateLimit | Settings> =>
  Effect.gen(function* () {
    const settings = yield* Settings
    const limit = yield* RateLimit
    const load = yield* Load
    const context = yield* Effect.context<R>()
    const run = Effect.runForkWith(context)
    const taken = new Map(
      [...urls].map(([path, url]) => [path, { ...url, answerTo: url.answerWith(context, limit) }]),
    )
    return (incoming, response) => {
      const url = incoming.method === "POST" ? taken.get(incoming.url ?? "") : undefined
      if (url === undefined) return false
      const source = takenFrom(incoming, url.isSigned, settings)
      if (source === undefined || tooMuchAs(load, limit, url.kind, source) !== undefined) return false
      const sender: Sender = { source, counted: false }
      hear(incoming, (body) => {
        const answer = url.answerTo(body, incoming.headers, sender)
        if (!("later" in answer)) return sendAny(response, answer)
        const fiber = run(Effect.map(answer.later, (told) => sendAny(response, told)))
        // Whoever has hung up waits for nothing; what must be done all the same does not run in this fiber.
        if (fiber.pollUnsafe() === undefined)
          response.once("close", () => response.writableEnded || fiber.interruptUnsafe())
      })
      return true
    }
  })

const left = "request left"

/** Shows each request to `take` first; those who listen for requests from here on get what it leaves. */
export const takeFirst = (server: Server, take: Take): void => {
  const emitter: EventEmitter = server
  server.on("request", (incoming, response) => {
    if (!take(incoming, response)) emitter.emit(left, incoming, response)
  })
  const renamed =
    (method: EventEmitter["on"]): any =>
    (name: string, listener: () => void) =>
      method.call(emitter, name === "request" ? left : name, listener)
  server.on = renamed(emitter.on)
  server.off = renamed(emitter.off)
}
