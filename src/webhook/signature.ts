// LiveKit's signature: a JWT in `Authorization` that holds the hash of the body's exact bytes.

import { createHash, timingSafeEqual } from "node:crypto"
import { Data, Effect, Option, Predicate, Schema } from "effect"
import { Keys } from "./keys.ts"

/** There is no token at all. */
export class MissingAuth extends Data.TaggedClass("MissingAuth")<{}> {}

/**
 * Something is wrong with the token, its claims or the hash. `why` may be shown to anybody: it holds nothing
 * of the token, and what is wrong with claims is said only of those that one of our keys signed.
 */
export class InvalidSignature extends Data.TaggedClass("InvalidSignature")<{
  readonly why:
    | "malformed token"
    | "unsupported algorithm"
    | "unknown key"
    | "bad signature"
    | "token expired"
    | "token not yet valid"
    | "invalid claims"
    | "hash mismatch"
}> {}

/** Seconds, as LiveKit's own receiver in Go allows; the SDK's 10 would lose every call of a clock 11 s off. */
const clockTolerance = 60

const fromBase64 = (text: string): string => Buffer.from(text, "base64url").toString("utf8")

const decodeHeader = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ alg: Schema.String })))
const decodeClaims = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ iss: Schema.String })))

const withoutBearer = (authorization: string) => authorization.replace(/^Bearer(?:\s+|$)/i, "").trim()

const invalid = (why: InvalidSignature["why"]) => Effect.fail(new InvalidSignature({ why }))

// By the error's code alone: the SDK's message can hold the token.
const reasonFor = (error: unknown): InvalidSignature["why"] => {
  switch (Predicate.hasProperty(error, "code") && error.code) {
    case "ERR_JWS_SIGNATURE_VERIFICATION_FAILED":
      return "bad signature"
    case "ERR_JWT_EXPIRED":
      return "token expired"
    case "ERR_JWT_CLAIM_VALIDATION_FAILED":
      return isEarly(error) ? "token not yet valid" : "invalid claims"
    default:
      return "malformed token"
  }
}

// An `nbf` that is no number fails as well, but for another reason.
const isEarly = (error: unknown) =>
  Predicate.hasProperty(error, "claim") &&
  error.claim === "nbf" &&
  Predicate.hasProperty(error, "reason") &&
  error.reason === "check_failed"

const hashMatches = (claimed: string, body: Uint8Array) => {
  const actual = Buffer.from(createHash("sha256").update(body).digest("base64"))
  const expected = Buffer.from(claimed)
  return actual.length === expected.length && timingSafeEqual(actual, expected)
}

/**
 * Checks that one of our keys signed exactly these bytes.
 * `authorization` is the header as it came, with or without `Bearer `. HS256 only, `exp` required, 60 s of
 * clock tolerance; the token's `iss` picks the key.
 */
export const verifySignature = Effect.fnUntraced(function* (
  authorization: string | undefined,
  body: Uint8Array,
): Effect.fn.Return<void, MissingAuth | InvalidSignature, Keys> {
  const token = withoutBearer(authorization ?? "")
  if (token === "") return yield* Effect.fail(new MissingAuth())
  const [header, payload, , ...rest] = token.split(".")
  if (header === undefined || payload === undefined || rest.length > 0)
    return yield* invalid("malformed token")

  // The SDK would take any HMAC that the header names.
  const algorithm = decodeHeader(fromBase64(header))
  if (Option.isNone(algorithm)) return yield* invalid("malformed token")
  if (algorithm.value.alg !== "HS256") return yield* invalid("unsupported algorithm")

  const claims = decodeClaims(fromBase64(payload))
  if (Option.isNone(claims)) return yield* invalid("malformed token")
  const keys = yield* Keys
  const verifier = keys.verifierOf(claims.value.iss)
  if (verifier === undefined) return yield* invalid("unknown key")

  const verified = yield* Effect.tryPromise({
    try: () => verifier.verify(token, clockTolerance),
    catch: (error) => new InvalidSignature({ why: reasonFor(error) }),
  })
  if (typeof verified.sha256 !== "string" || !hashMatches(verified.sha256, body))
    return yield* invalid("hash mismatch")
})
