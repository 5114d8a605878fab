// LiveKit's URLs, and that of whoever asks which agent to dispatch: raw bytes in, the answer in the URL's own form out.

import { Context, Effect, type Layer } from "effect"
import { HttpRouter, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import { type AskNeeds, ask } from "../dispatch/ask.ts"
import {
  dispatch,
  endAtOnce,
  type PipelineError,
  type PipelineNeeds,
  type ReceiveError,
  receive,
  rehearse,
} from "../dispatch/pipeline.ts"
import { admit, Load, type Overloaded } from "../load.ts"
import type { InvalidPayload } from "../webhook/event.ts"
import { verifyHmac } from "../webhook/hmac.ts"
import { Keys } from "../webhook/keys.ts"
import { type InvalidSignature, MissingAuth, verifySignature } from "../webhook/signature.ts"
import { answer, failureAnswer, problem, sessionAnswer, sessionFailure } from "./answers.ts"
import {
  type Answer,
  type Headers,
  headerOf,
  type Posted,
  type ReceivingNeeds,
  receiving,
  withToken,
} from "./receiving.ts"
import { type Straight, straight } from "./straight.ts"

export const webhookPath = "/api/v1/livekit/webhook"
export const sipInboundPath = "/api/v1/webhooks/livekit/sip-inbound"
export const eventsPath = "/api/v1/webhooks/livekit/events"
export const sessionsPath = "/api/v1/webhooks/livekit"

/** With this header, `true`, a webhook is only decided about, and the answer is how. */
export const dryRunHeader = "switchhook-dry-run"

const signed = (body: Uint8Array, headers: Headers) => ({
  authorization: headerOf(headers, "authorization"),
  body,
})

const dispatched = (...given: Parameters<typeof dispatch>) =>
  Effect.map(admit("call", dispatch(...given)), ({ end, replayed }) => answer(end, replayed))

const isRehearsal = (headers: Headers) => headers[dryRunHeader] === "true"

const onDispatch: Posted<PipelineError, PipelineNeeds> = {
  ...withToken,
  kind: "call",
  work: (body, headers) =>
    isRehearsal(headers)
      ? Effect.map(admit("record", rehearse(signed(body, headers))), (rehearsed) =>
          HttpServerResponse.jsonUnsafe({ ok: true, dry_run: true, ...rehearsed }),
        )
      : dispatched(signed(body, headers)),
  atOnce: (context) => {
    const keys = Context.get(context, Keys)
    const load = Context.get(context, Load)
    return (body, headers) => {
      if (isRehearsal(headers) || load.refuses("call")) return undefined
      const request = signed(body, headers)
      const known = endAtOnce(keys, request)
      if (known === undefined) return undefined
      if (known._tag === "Authentic") return { left: dispatched(request, known) }
      return known._tag === "Ignored" ? answer(known) : { left: Effect.fail(known) }
    }
  },
  inForm: (failure) => Effect.succeed(answer(failure)),
}

const success = HttpServerResponse.jsonUnsafe({ success: true })

// Only what is here whole is in work: whoever sends slowly must not take the place of those who do not.
const recorded = (body: Uint8Array, headers: Headers) => admit("record", receive(signed(body, headers)))

const onEvents: Posted<ReceiveError | Overloaded, PipelineNeeds> = {
  ...withToken,
  kind: "record",
  work: (body, headers) => Effect.as(recorded(body, headers), success),
  inForm: (failure) => Effect.succeed(failureAnswer(failure)),
}

const onSessions: Posted<ReceiveError | Overloaded, PipelineNeeds> = {
  ...withToken,
  kind: "record",
  work: (body, headers) => Effect.map(recorded(body, headers), sessionAnswer),
  inForm: sessionFailure,
}

// Either signature will do; without any, only where the setting says so.
const signatureOf = (headers: Headers) => {
  const signature = headerOf(headers, "x-livekit-signature")
  const authorization = headerOf(headers, "authorization")
  if (signature !== "") return (body: Uint8Array) => verifyHmac(signature, body)
  return authorization === "" ? undefined : (body: Uint8Array) => verifySignature(authorization, body)
}

const onSipInbound: Posted<
  MissingAuth | InvalidSignature | InvalidPayload | Overloaded,
  PipelineNeeds | AskNeeds
> = {
  kind: "call",
  isSigned: (headers) => signatureOf(headers) !== undefined,
  before: (headers) =>
    Effect.flatMap(Settings, ({ sipInboundUnsigned }) => {
      const unsigned = signatureOf(headers) === undefined
      return unsigned && !sipInboundUnsigned ? Effect.fail(new MissingAuth()) : Effect.succeed({ unsigned })
    }),
  work: (body, headers) => {
    const answered = Effect.gen(function* () {
      const verify = signatureOf(headers)
      if (verify !== undefined) yield* verify(body)
      return yield* ask(body)
    })
    return Effect.map(admit("call", answered), (told) => HttpServerResponse.jsonUnsafe(told))
  },
  inForm: (failure) => Effect.succeed(failureAnswer(failure)),
}

export type WebhookNeeds = PipelineNeeds | AskNeeds | ReceivingNeeds

/** Every method that a URL to post to does not have; HEAD goes with GET. */
const notPost = ["GET", "OPTIONS", "PUT", "PATCH", "DELETE"] as const

/** The answer to those. */
const methodNotAllowed = (path: string) =>
  HttpServerResponse.setHeader(problem(405, `Only POST ${path}`), "Allow", "POST")

/** Adds a URL that is posted to; other methods are answered with 405. */
export const addPosted = Effect.fnUntraced(function* (
  router: HttpRouter.HttpRouter,
  path: HttpRouter.PathInput,
  handle: Effect.Effect<Answer, never, HttpServerRequest.HttpServerRequest>,
) {
  yield* router.add("POST", path, handle)
  for (const method of notPost) yield* router.add(method, path, methodNotAllowed(path))
})

/** The URLs that LiveKit posts to. */
export const webhookRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | WebhookNeeds> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const context = yield* Effect.context<WebhookNeeds>()
    yield* addPosted(router, webhookPath, Effect.provideContext(receiving(onDispatch), context))
    yield* addPosted(router, sipInboundPath, Effect.provideContext(receiving(onSipInbound), context))
    yield* addPosted(router, eventsPath, Effect.provideContext(receiving(onEvents), context))
    yield* addPosted(router, sessionsPath, Effect.provideContext(receiving(onSessions), context))
  }),
)

/** The same URLs by their paths, for what goes straight. */
export const straightWebhooks: ReadonlyMap<string, Straight<WebhookNeeds>> = new Map<
  string,
  Straight<WebhookNeeds>
>([
  [webhookPath, straight(onDispatch)],
  [sipInboundPath, straight(onSipInbound)],
  [eventsPath, straight(onEvents)],
  [sessionsPath, straight(onSessions)],
])
