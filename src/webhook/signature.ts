// LiveKit's signature: a JWT in `Authorization` that holds the hash of the body's exact bytes.

import { createHash, createHmac, type KeyObject, timingSafeEqual } from "node:crypto"
import { Data, Effect } from "effect"
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

type Why = InvalidSignature["why"] | undefined

/** Seconds, as LiveKit's own receiver in Go allows; the SDK's 10 would lose every call of a clock 11 s off. */
const clockTolerance = 60

const withoutBearer = (authorization: string) => authorization.replace(/^Bearer(?:\s+|$)/i, "").trim()

interface Fields {
  readonly [name: string]: unknown
}

/** The fields of a part of the token; none where it is not the JSON of an object. */
const fieldsOf = (part: string): Fields => {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, "base64url").toString("utf8"))
    return typeof value === "object" && value !== null ? (value as Fields) : {}
  } catch {
    return {}
  }
}

// RFC 7515: what `crit` names must be understood. The one such name here, `b64`, is that of RFC 7797.
const isUnderstood = ({ b64, crit }: Fields) =>
  crit === undefined ||
  (Array.isArray(crit) && crit.length > 0 && crit.every((name) => name === "b64") && typeof b64 === "boolean")

// The claims of a JWT are always encoded.
const isForJwt = ({ b64, crit }: Fields) => crit === undefined || b64 === true

const isEqual = (actual: Uint8Array, expected: Uint8Array) =>
  actual.length === expected.length && timingSafeEqual(actual, expected)

const isSigned = (secret: KeyObject, signed: string, signature: string) =>
  isEqual(Buffer.from(signature, "base64url"), createHmac("sha256", secret).update(signed).digest())

const isHashOf = (claimed: string, body: Uint8Array) =>
  isEqual(Buffer.from(claimed), Buffer.from(createHash("sha256").update(body).digest("base64")))

const whyClaims = ({ exp, iat, nbf }: Fields, seconds: number): Why => {
  if (exp === undefined) return "invalid claims"
  if (iat !== undefined && typeof iat !== "number") return "invalid claims"
  if (nbf !== undefined && typeof nbf !== "number") return "invalid claims"
  if (nbf !== undefined && nbf > seconds + clockTolerance) return "token not yet valid"
  if (typeof exp !== "number") return "invalid claims"
  return exp <= seconds - clockTolerance ? "token expired" : undefined
}

const whyRefused = (keys: Keys["Service"], token: string, body: Uint8Array): Why => {
  const [header = "", payload, signature, ...rest] = token.split(".", 4)
  if (payload === undefined || rest.length > 0) return "malformed token"
  const head = fieldsOf(header)
  if (typeof head["alg"] !== "string") return "malformed token"
  if (head["alg"] !== "HS256") return "unsupported algorithm"

  const claims = fieldsOf(payload)
  if (typeof claims["iss"] !== "string") return "malformed token"
  const secret = keys.secretOf(claims["iss"])
  if (secret === undefined) return "unknown key"

  if (signature === undefined || !isUnderstood(head)) return "malformed token"
  if (!isSigned(secret, `${header}.${payload}`, signature)) return "bad signature"
  if (!isForJwt(head)) return "malformed token"
  const why = whyClaims(claims, Math.floor(Date.now() / 1000))
  if (why !== undefined) return why
  return typeof claims["sha256"] === "string" && isHashOf(claims["sha256"], body)
    ? undefined
    : "hash mismatch"
}

/**
 * What is wrong with the signature of these bytes; nothing, where one of our keys signed exactly them.
 * `authorization` is the header as it came, with or without `Bearer `. HS256 only, `exp` required, 60 s of
 * clock tolerance; the token's `iss` picks the key.
 *
 * In all else it answers as livekit-server-sdk's `TokenVerifier` does, which imports the key anew for each token and
 * answers later: on Deno too as that does on Node. (The SDK's base64url skips on Node what is none, and on Deno refuses
 * it; either way only what was signed passes.)
 */
export const faultOfSignature = (
  keys: Keys["Service"],
  authorization: string | undefined,
  body: Uint8Array,
): MissingAuth | InvalidSignature | undefined => {
  const token = withoutBearer(authorization ?? "")
  if (token === "") return new MissingAuth()
  const why = whyRefused(keys, token, body)
  return why === undefined ? undefined : new InvalidSignature({ why })
}

/** Fails with what `faultOfSignature` finds. */
export const verifySignature = (
  authorization: string | undefined,
  body: Uint8Array,
): Effect.Effect<void, MissingAuth | InvalidSignature, Keys> =>
  Effect.flatMap(Keys, (keys) => {
    const fault = faultOfSignature(keys, authorization, body)
    return fault === undefined ? Effect.void : Effect.fail(fault)
  })
