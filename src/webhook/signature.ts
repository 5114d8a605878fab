// LiveKit's signature: a JWT in `Authorization` that holds the hash of the body's exact bytes.

import { createHash, timingSafeEqual } from "node:crypto"
import { Data, Effect, Option, Schema } from "effect"
import { Keys } from "./keys.ts"

/** There is no token at all. */
export class MissingAuth extends Data.TaggedClass("MissingAuth")<{}> {}

/** Something is wrong with the token, its claims or the hash; `why` is for our log, never for the sender. */
export class InvalidSignature extends Data.TaggedClass("InvalidSignature")<{
  readonly why: "malformed" | "algorithm" | "unknown key" | "token" | "body hash"
}> {}

/** Seconds, as LiveKit's own receiver in Go allows; the SDK's 10 would lose every call of a clock 11 s off. */
const clockTolerance = 60

const fromBase64 = (text: string): string => Buffer.from(text, "base64url").toString("utf8")

const decodeHeader = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ alg: Schema.String })))
const decodeClaims = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ iss: Schema.String })))

const withoutBearer = (authorization: string) => authorization.replace(/^Bearer(?:\s+|$)/i, "").trim()

const invalid = (why: InvalidSignature["why"]) => Effect.fail(new InvalidSignature({ why }))

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
  if (header === undefined || payload === undefined || rest.length > 0) return yield* invalid("malformed")

  // The SDK would take any HMAC that the header names.
  const algorithm = decodeHeader(fromBase64(header))
  if (Option.isNone(algorithm)) return yield* invalid("malformed")
  if (algorithm.value.alg !== "HS256") return yield* invalid("algorithm")

  const claims = decodeClaims(fromBase64(payload))
  if (Option.isNone(claims)) return yield* invalid("malformed")
  const keys = yield* Keys
  const verifier = keys.verifierOf(claims.value.iss)
  if (verifier === undefined) return yield* invalid("unknown key")

  // An SDK error's message can hold the token: only that it failed is kept.
  const verified = yield* Effect.tryPromise({
    try: () => verifier.verify(token, clockTolerance),
    catch: () => new InvalidSignature({ why: "token" }),
  })
  if (typeof verified.sha256 !== "string" || !hashMatches(verified.sha256, body))
    return yield* invalid("body hash")
})
