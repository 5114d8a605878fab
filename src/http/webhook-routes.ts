// LiveKit's URLs: raw bytes in, the pipeline's answer out.

import { ByteSize, Effect, type Layer } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { dispatch, type PipelineError, type PipelineNeeds } from "../dispatch/pipeline.ts"
import { countEvent } from "../metrics.ts"
import { MissingAuth } from "../webhook/signature.ts"
import { answer, problem } from "./answers.ts"

export const webhookPath = "/api/v1/livekit/webhook"

const largestBody = ByteSize.mebibytes(1)

// `request.text` would drop a BOM and replace bad bytes, and the hash would not match what was signed.
const readBytes = Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => request.arrayBuffer).pipe(
  Effect.provideService(HttpIncomingMessage.MaxBodySize, largestBody),
  Effect.map((buffer) => new Uint8Array(buffer)),
)

// A wrong key loses every call for good, so it must be seen; but whoever sends garbage must not fill the log.
const refusalsEveryMs = 1_000
let lastRefusal = Number.NEGATIVE_INFINITY
let unsaid = 0

const tellRefusal = (error: PipelineError) =>
  Effect.suspend(() => {
    if (error._tag !== "InvalidSignature" && error._tag !== "InvalidPayload") return Effect.void
    if (performance.now() - lastRefusal < refusalsEveryMs) {
      unsaid++
      return Effect.void
    }
    lastRefusal = performance.now()
    const more = unsaid
    unsaid = 0
    return Effect.logWarning("Webhook refused", { error: error._tag, why: error.why, more })
  })

const handle = Effect.gen(function* () {
  const request = yield* HttpServerRequest.HttpServerRequest
  const authorization = request.headers["authorization"]
  if (authorization === undefined || authorization === "") {
    yield* countEvent(undefined, "MissingAuth")
    return answer(new MissingAuth())
  }
  const body = yield* readBytes
  const { end, replayed } = yield* Effect.tapError(dispatch({ authorization, body }), tellRefusal)
  return answer(end, replayed)
}).pipe(
  Effect.catchTag("HttpServerError", (error) =>
    error.reason._tag === "RequestParseError" && error.reason.reason === "BodyTooLarge"
      ? Effect.as(countEvent(undefined, "TooLarge"), answer({ _tag: "TooLarge" }))
      : Effect.succeed(problem(400, "The request broke off")),
  ),
  Effect.catch((error) => Effect.succeed(answer(error))),
  Effect.catchDefect((defect) =>
    Effect.as(Effect.logError("Unexpected failure", { why: String(defect) }), problem(500, "Internal error")),
  ),
)

const methodNotAllowed = HttpServerResponse.setHeader(
  problem(405, `Only POST ${webhookPath}`),
  "Allow",
  "POST",
)

/** `POST /api/v1/livekit/webhook`. */
export const webhookRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | PipelineNeeds> = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const context = yield* Effect.context<PipelineNeeds>()
    yield* router.add("POST", webhookPath, Effect.provideContext(handle, context))
    for (const method of ["GET", "PUT", "PATCH", "DELETE"] as const) {
      yield* router.add(method, webhookPath, methodNotAllowed)
    }
  }),
)
