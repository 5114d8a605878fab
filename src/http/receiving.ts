// What all webhook URLs do before and after their own work: who may call, and how much.

import { Effect, Option } from "effect"
import { HttpServerRequest, type HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import { type Kind, Load } from "../load.ts"
import { countEvent, countRefused } from "../metrics.ts"
import { MissingAuth } from "../webhook/signature.ts"
import type { RateLimited, Refusal, SourceNotAllowed } from "./answers.ts"
import { RateLimit } from "./rate-limit.ts"
import { isAllowed, type Source, sourceOf } from "./source.ts"
import { sparingly } from "./sparingly.ts"

type Answer = HttpServerResponse.HttpServerResponse

export type ReceivingNeeds = Settings | RateLimit

/** The token of `Authorization`; without one nothing of the body is read. */
export const authorizationOf: Effect.Effect<string, MissingAuth, HttpServerRequest.HttpServerRequest> =
  Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers }) => {
    const authorization = headers["authorization"] ?? ""
    return authorization === "" ? Effect.fail(new MissingAuth()) : Effect.succeed(authorization)
  })

// A wrong key loses every call for good, so it must be seen; but whoever sends garbage must not fill the log.
const told = new Set(["InvalidSignature", "InvalidPayload"])
const warnOfRefusal = sparingly("Webhook refused")

const tellRefusal = (error: { readonly _tag: string; readonly why?: unknown }): Effect.Effect<void> =>
  told.has(error._tag) ? warnOfRefusal({ error: error._tag, why: error.why }) : Effect.void

const source = Effect.gen(function* () {
  const { allowedSources, trustedProxies } = yield* Settings
  const request = yield* HttpServerRequest.HttpServerRequest
  const sender = sourceOf(
    Option.getOrUndefined(request.remoteAddress),
    request.headers["x-forwarded-for"],
    trustedProxies,
  )
  if (isAllowed(sender, allowedSources)) return sender
  yield* countRefused("source")
  return yield* Effect.fail<SourceNotAllowed>({ _tag: "SourceNotAllowed" })
})

/** Counts a request that is not validly signed; fails where its source sends too many of them. */
const countUnsigned = Effect.fnUntraced(function* ({ bucket }: Source) {
  const taken = (yield* RateLimit).take(bucket)
  if (taken.allowed) return
  yield* countRefused("rate")
  return yield* Effect.fail<RateLimited>({
    _tag: "RateLimited",
    retryAfterSeconds: taken.retryAfterSeconds,
  })
})

const unsigned = new Set(["MissingAuth", "InvalidSignature", "TooLarge", "BrokenOff"])

/** Fails, before anything of the request is read, where there is too much to do for one of this kind. */
const unlessTooMuch = Effect.fnUntraced(function* (kind: Kind, { bucket }: Source) {
  const load = yield* Load
  // Whoever is turned away last is asked about last, and mostly nobody is.
  if (!load.refuses("unsigned")) return
  if ((yield* RateLimit).isSuspect(bucket)) return yield* load.refuse("unsigned")
  if (load.refuses(kind)) return yield* load.refuse(kind)
})

/**
 * Runs a URL's own work for a source that may call it, unless there is too much to do for a request of its kind;
 * `inForm` makes the URL's own answer of any failure.
 * Requests that turn out not to be validly signed count against their source, and `unsignedToo` says that the
 * work takes some that are not (`counted` is to be run for those before anything else).
 */
export const receiving = <E extends { readonly _tag: string }, R>(
  kind: Kind,
  work: (counted: Effect.Effect<void, RateLimited, RateLimit>) => Effect.Effect<Answer, E, R>,
  inForm: (failure: E | Refusal) => Effect.Effect<Answer>,
): Effect.Effect<Answer, never, R | ReceivingNeeds | HttpServerRequest.HttpServerRequest> =>
  Effect.gen(function* () {
    const sender = yield* source
    yield* unlessTooMuch(kind, sender)
    const limit = yield* RateLimit
    let counted = false
    const countOnce = Effect.suspend(() => {
      if (counted) return Effect.void
      counted = true
      return countUnsigned(sender)
    })
    return yield* work(countOnce).pipe(
      Effect.tap(() => Effect.sync(() => counted || limit.vouch(sender.bucket))),
      Effect.tapError(tellRefusal),
      Effect.tapError((error) => (unsigned.has(error._tag) ? countOnce : Effect.void)),
    )
  }).pipe(
    Effect.tapError((error) =>
      error._tag === "MissingAuth" || error._tag === "TooLarge"
        ? countEvent(undefined, error._tag)
        : Effect.void,
    ),
    Effect.catch((error) => inForm(error)),
    Effect.catchDefect((defect) =>
      Effect.andThen(
        Effect.logError("Unexpected failure", { why: String(defect) }),
        inForm({ _tag: "Unexpected" }),
      ),
    ),
  )
