// What stands before every route of the admin API: who may come in, and what becomes of whatever goes wrong.

import { ByteSize, Effect, Layer, SchemaIssue } from "effect"
import { HttpIncomingMessage, HttpServerError, HttpServerRequest } from "effect/http"
import { HttpApiError } from "effect/http-api"
import { Settings } from "../../config.ts"
import { admit, Overloaded } from "../../load.ts"
import { isAdmin } from "../admin-token.ts"
import { Answering, Authorization } from "./api/authorization.ts"
import {
  BadRequest,
  InternalError,
  NotFound,
  TooLarge,
  Unauthorized,
  Unavailable,
  UnsupportedMediaType,
} from "./api/problems.ts"

/** Lets nobody in without the admin token, before anything of the request is read. */
export const authorizationLayer: Layer.Layer<Authorization, never, Settings> = Layer.effect(
  Authorization,
  Effect.gen(function* () {
    const settings = yield* Settings
    const admitted = Effect.provideService(isAdmin, Settings, settings)
    const refused = Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers }) =>
      Effect.fail(
        new Unauthorized({
          detail: (headers["authorization"] ?? "") === "" ? "Missing auth" : "Invalid admin token",
        }),
      ),
    )
    return Authorization.of({
      bearer: Effect.fnUntraced(function* (answer) {
        if (!(yield* admitted)) return yield* refused
        return yield* answer
      }),
    })
  }),
)

const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

/** `dids[1].number`, as one would write it. */
const pathOf = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> = []): string =>
  path
    .map((part) => (typeof part === "object" ? part.key : part))
    .map((key, place) => (typeof key === "number" ? `[${key}]` : `${place === 0 ? "" : "."}${String(key)}`))
    .join("")

/** A request that is not as the schema has it, or an answer of ours that is not. */
const notAsDescribed = ({
  cause,
  kind,
}: HttpApiError.HttpApiSchemaError): Effect.Effect<never, BadRequest | NotFound | InternalError> => {
  if (kind === "Body" || kind === "ResponseHeaders") {
    return Effect.andThen(
      Effect.logError("Unexpected failure", { why: String(cause) }),
      Effect.fail(new InternalError({ detail: "Internal error" })),
    )
  }
  // An id that is none belongs to nothing.
  if (kind === "Params") return Effect.fail(new NotFound({ detail: "Not found" }))
  const errors = issuesOf(cause.issue).issues.map(({ message, path }) => ({ path: pathOf(path), message }))
  return Effect.fail(BadRequest.of(errors))
}

/** The body could not be read, or there is a bug of ours. */
const defect = (error: unknown): Effect.Effect<never, BadRequest | TooLarge | InternalError> => {
  if (HttpServerError.isHttpServerError(error) && error.reason._tag === "RequestParseError") {
    return error.reason.reason === "BodyTooLarge"
      ? Effect.fail(new TooLarge({ detail: "Payload too large" }))
      : Effect.fail(BadRequest.at("", "The request broke off"))
  }
  return Effect.andThen(
    Effect.logError("Unexpected failure", { why: String(error) }),
    Effect.fail(new InternalError({ detail: "Internal error" })),
  )
}

/** Makes problem details of everything, and turns away what is too much beside the calls. */
export const answeringLayer: Layer.Layer<Answering, never, Settings> = Layer.effect(
  Answering,
  Effect.map(Settings, ({ limits }) => {
    const largestBody = ByteSize.bytes(limits.bodySize)
    return Answering.of((answer) =>
      admit("admin", answer).pipe(
        Effect.catchIf(
          (error) => error instanceof Overloaded,
          () => Effect.fail(new Unavailable({ detail: "Overloaded" })),
        ),
        Effect.provideService(HttpIncomingMessage.MaxBodySize, largestBody),
        Effect.catch((error: unknown) =>
          HttpApiError.HttpApiSchemaError.is(error) ? notAsDescribed(error) : Effect.fail(error as never),
        ),
        Effect.flatMap((response) =>
          response.status === 415
            ? Effect.fail(new UnsupportedMediaType({ detail: "Only application/json" }))
            : Effect.succeed(response),
        ),
        Effect.catchDefect(defect),
      ),
    )
  }),
)
