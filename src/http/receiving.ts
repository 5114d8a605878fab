// What all URLs that are posted to do before and after their own work: who may call, and how much.

import { type Context, Effect, Option } from "effect"
import { HttpServerRequest, type HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import { type Kind, Load, type LoadShape } from "../load.ts"
import { countEvent, countRefused } from "../metrics.ts"
import { MissingAuth } from "../webhook/signature.ts"
import type { RateLimited, Refusal, SourceNotAllowed } from "./answers.ts"
import { readBytes } from "./bodies.ts"
import { RateLimit } from "./rate-limit.ts"
import { isAllowed, type Source, sourceOf } from "./source.ts"
import { sparingly } from "./sparingly.ts"

export type Answer = HttpServerResponse.HttpServerResponse

/** A request's headers by their names in lower case; of one that came twice, what HTTP makes of it. */
export type Headers = { readonly [name: string]: string | ReadonlyArray<string> | undefined }

/** The value of a header; the empty string where there is none. */
export const headerOf = (headers: Headers, name: string): string => {
  const value = headers[name]
  return typeof value === "string" ? value : ""
}

/** A URL that is posted to. */
export interface Posted<E extends { readonly _tag: string }, R> {
  readonly kind: Kind
  /**
   * What the headers must have before anything of the body is read. Succeeds with whether the request is taken though
   * it is not signed: then it counts against its source.
   */
  readonly before: (headers: Headers) => Effect.Effect<{ readonly unsigned: boolean }, E, R>
  /** Whether `before` would find a signature, for certain. */
  readonly isSigned: (headers: Headers) => boolean
  readonly work: (body: Uint8Array, headers: Headers) => Effect.Effect<Answer, E, R>
  /** The same for what needs nobody else: the answer, or the work that is left to do; `undefined` where that is all. */
  readonly atOnce?: (
    context: Context.Context<R>,
  ) => (
    body: Uint8Array,
    headers: Headers,
  ) => Answer | { readonly left: Effect.Effect<Answer, E, R> } | undefined
  /** The URL's own answer to any failure. */
  readonly inForm: (failure: E | Refusal) => Effect.Effect<Answer>
}

const authorized = (headers: Headers) => headerOf(headers, "authorization") !== ""

/** A URL where without a token nothing of the body is read. */
export const withToken = {
  before: (headers: Headers): Effect.Effect<{ readonly unsigned: boolean }, MissingAuth> =>
    authorized(headers) ? Effect.succeed({ unsigned: false }) : Effect.fail(new MissingAuth()),
  isSigned: authorized,
}

// A wrong key loses every call for good, so it must be seen; but whoever sends garbage must not fill the log.
const told = new Set(["InvalidSignature", "InvalidPayload"])
const warnOfRefusal = sparingly("Webhook refused")

const tellRefusal = (error: { readonly _tag: string; readonly why?: unknown }): Effect.Effect<void> =>
  told.has(error._tag) ? warnOfRefusal({ error: error._tag, why: error.why }) : Effect.void

const unsigned = new Set(["MissingAuth", "InvalidSignature", "TooLarge", "BrokenOff"])
const withoutEvent = new Set(["MissingAuth", "InvalidSignature", "InvalidPayload", "TooLarge"])

/** Who has sent a request, and whether it counts already against what its source may send unsigned. */
export interface Sender {
  readonly source: Source
  counted: boolean
}

/** Counts a request that is not validly signed; tells where its source sends too many of them. */
const countUnsigned = (limit: RateLimit["Service"], sender: Sender): RateLimited | undefined => {
  if (sender.counted) return undefined
  sender.counted = true
  const taken = limit.take(sender.source.bucket)
  if (taken.allowed) return undefined
  countRefused("rate")
  return { _tag: "RateLimited", retryAfterSeconds: taken.retryAfterSeconds }
}

/** Notes that the sender has sent something that is validly signed. */
export const vouchFor = (limit: RateLimit["Service"], { counted, source }: Sender): void => {
  if (!counted) limit.vouch(source.bucket)
}

/** The answer to a request: what its work has come to, or the failure in the URL's own form. */
export const concluded = <E extends { readonly _tag: string }, R>(
  { inForm }: Posted<E, R>,
  limit: RateLimit["Service"],
  sender: Sender,
  work: Effect.Effect<Answer, E | Refusal, R>,
): Effect.Effect<Answer, never, R> =>
  work.pipe(
    Effect.matchEffect({
      onSuccess: (answer) => {
        vouchFor(limit, sender)
        return Effect.succeed(answer)
      },
      onFailure: (error) => {
        if (error._tag === "Ignored") vouchFor(limit, sender)
        const limited = unsigned.has(error._tag) ? countUnsigned(limit, sender) : undefined
        if (limited === undefined && withoutEvent.has(error._tag)) countEvent(undefined, error._tag)
        return Effect.andThen(tellRefusal(error), inForm(limited ?? error))
      },
    }),
    Effect.catchDefect((defect) =>
      Effect.andThen(
        Effect.logError("Unexpected failure", { why: String(defect) }),
        inForm({ _tag: "Unexpected" }),
      ),
    ),
  )

/** As whom a request is turned away, before anything of it is read; `undefined` where there is not too much to do. */
export const tooMuchAs = (
  load: LoadShape,
  limit: RateLimit["Service"],
  kind: Kind,
  { bucket }: Source,
): Kind | undefined => {
  // Whoever is turned away last is asked about last, and mostly nobody is.
  if (!load.refuses("unsigned")) return undefined
  if (limit.isSuspect(bucket)) return "unsigned"
  return load.refuses(kind) ? kind : undefined
}

export type ReceivingNeeds = Settings | RateLimit

/**
 * Runs a URL's own work for a source that may call it, unless there is too much to do for a request of its kind.
 * Requests that turn out not to be validly signed count against their source.
 */
export const receiving = <E extends { readonly _tag: string }, R>(
  posted: Posted<E, R>,
): Effect.Effect<Answer, never, R | ReceivingNeeds | HttpServerRequest.HttpServerRequest> =>
  Effect.gen(function* () {
    const { allowedSources, trustedProxies } = yield* Settings
    const { headers, remoteAddress } = yield* HttpServerRequest.HttpServerRequest
    const limit = yield* RateLimit
    const load = yield* Load
    const { before, inForm, kind, work } = posted
    const source = sourceOf(Option.getOrUndefined(remoteAddress), headers["x-forwarded-for"], trustedProxies)
    if (!isAllowed(source, allowedSources)) {
      countRefused("source")
      return yield* inForm({ _tag: "SourceNotAllowed" } satisfies SourceNotAllowed)
    }
    const tooMuch = tooMuchAs(load, limit, kind, source)
    if (tooMuch !== undefined) return yield* Effect.catch(load.refuse(tooMuch), inForm)
    const sender: Sender = { source, counted: false }
    const whole = Effect.gen(function* () {
      const { unsigned } = yield* before(headers)
      const limited = unsigned ? countUnsigned(limit, sender) : undefined
      if (limited !== undefined) return yield* Effect.fail(limited)
      return yield* work(yield* readBytes, headers)
    })
    return yield* concluded<E, R | Settings | HttpServerRequest.HttpServerRequest>(
      posted,
      limit,
      sender,
      whole,
    )
  })
