// LiveKit's URLs, and that of whoever asks which agent to dispatch: raw bytes in, the answer in the URL's own form out.

import { Effect, type Layer } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import { type AskNeeds, ask } from "../dispatch/ask.ts"
import { dispatch, type PipelineNeeds, receive, rehearse } from "../dispatch/pipeline.ts"
import { admit } from "../load.ts"
import { verifyHmac } from "../webhook/hmac.ts"
import { MissingAuth, verifySignature } from "../webhook/signature.ts"
import { answer, failureAnswer, problem, sessionAnswer, sessionFailure } from "./answers.ts"
import { readBytes } from "./bodies.ts"
import { authorizationOf, type ReceivingNeeds, receiving } from "./receiving.ts"

export const webhookPath = "/api/v1/livekit/webhook"
export const sipInboundPath = "/api/v1/webhooks/livekit/sip-inbound"
export const eventsPath = "/api/v1/webhooks/livekit/events"
export const sessionsPath = "/api/v1/webhooks/livekit"

const signedRequest = Effect.gen(function* () {
  const authorization = yield* authorizationOf
  return { authorization, body: yield* readBytes }
})

/** With this header, `true`, a webhook is only decided about, and the answer is how. */
export const dryRunHeader = "switchhook-dry-run"

const onDispatch = receiving(
  "call",
  () =>
    Effect.gen(function* () {
      const { headers } = yield* HttpServerRequest.HttpServerRequest
      const request = yield* signedRequest
      if (headers[dryRunHeader] === "true") {
        const rehearsed = yield* admit("record", rehearse(request))
        return HttpServerResponse.jsonUnsafe({ ok: true, dry_run: true, ...rehearsed })
      }
      const { end, replayed } = yield* admit("call", dispatch(request))
      return answer(end, replayed)
    }),
  (failure) => Effect.succeed(answer(failure)),
)

const success = HttpServerResponse.jsonUnsafe({ success: true })

// Only what is here whole is in work: whoever sends slowly must not take the place of those who do not.
const recorded = Effect.flatMap(signedRequest, (request) => admit("record", receive(request)))

const onEvents = receiving(
  "record",
  () => Effect.as(recorded, success),
  (failure) => Effect.succeed(failureAnswer(failure)),
)

const onSessions = receiving(
  "record",
  () => Effect.map(recorded, sessionAnswer),
  (failure) => sessionFailure(failure),
)

// Either signature will do; without any, only where the setting says so.
const signatureOf = Effect.map(HttpServerRequest.HttpServerRequest, ({ headers }) => {
  const signature = headers["x-livekit-signature"] ?? ""
  const authorization = headers["authorization"] ?? ""
  if (signature !== "") return (body: Uint8Array) => verifyHmac(signature, body)
  return authorization === "" ? undefined : (body: Uint8Array) => verifySignature(authorization, body)
})

const onSipInbound = receiving(
  "call",
  (counted) =>
    Effect.gen(function* () {
      const { sipInboundUnsigned } = yield* Settings
      const verify = yield* signatureOf
      if (verify === undefined) {
        if (!sipInboundUnsigned) return yield* Effect.fail(new MissingAuth())
        yield* counted
      }
      const body = yield* readBytes
      const answered = Effect.gen(function* () {
        if (verify !== undefined) yield* verify(body)
        return yield* ask(body)
      })
      return HttpServerResponse.jsonUnsafe(yield* admit("call", answered))
    }),
  (failure) => Effect.succeed(failureAnswer(failure)),
)

type Needs = PipelineNeeds | AskNeeds | ReceivingNeeds

/** Every method that a URL to post to does not have; HEAD goes with GET. */
export const notPost = ["GET", "OPTIONS", "PUT", "PATCH", "DELETE"] as const

/** The answer to those. */
export const methodNotAllowed = (path: string) =>
  HttpServerResponse.setHeader(problem(405, `Only POST ${path}`), "Allow", "POST")

/** The URLs that LiveKit posts to; each answers other methods with 405. */
export const webhookRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | Needs> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const context = yield* Effect.context<Needs>()
    const handlers = {
      [webhookPath]: onDispatch,
      [sipInboundPath]: onSipInbound,
      [eventsPath]: onEvents,
      [sessionsPath]: onSessions,
    }
    for (const [path, handle] of Object.entries(handlers)) {
      const at = path as HttpRouter.PathInput
      yield* router.add("POST", at, Effect.provideContext(handle, context))
      for (const method of notPost) yield* router.add(method, at, methodNotAllowed(path))
    }
  }),
)
