// The signature of senders without a token: `X-LiveKit-Signature`, an HMAC of the body's exact bytes.

import { createHmac, timingSafeEqual } from "node:crypto"
import { Effect, Redacted } from "effect"
import { Settings } from "../config.ts"
import { InvalidSignature, MissingAuth } from "./signature.ts"

/**
 * What is wrong with the signature of these bytes; nothing, where one of the secrets signed exactly them.
 * `signature` is the header as it came: HMAC-SHA256 in hex of either case, with or without `sha256=`.
 */
export const faultOfHmac = (
  secrets: ReadonlyArray<Redacted.Redacted>,
  signature: string | undefined,
  body: Uint8Array,
): MissingAuth | InvalidSignature | undefined => {
  const given = (signature ?? "").trim()
  if (given === "") return new MissingAuth()
  const hex = given.replace(/^sha256=/i, "")
  if (!/^[0-9a-f]{64}$/i.test(hex)) return new InvalidSignature({ why: "bad signature" })
  const claimed = Buffer.from(hex, "hex")

  // Every secret is tried, so that the time taken does not tell which one matched.
  const matches = secrets.map((secret) =>
    timingSafeEqual(createHmac("sha256", Redacted.value(secret)).update(body).digest(), claimed),
  )
  return matches.includes(true) ? undefined : new InvalidSignature({ why: "bad signature" })
}

/** Fails with what `faultOfHmac` finds under `Settings.webhookSecrets`. */
export const verifyHmac = (
  signature: string | undefined,
  body: Uint8Array,
): Effect.Effect<void, MissingAuth | InvalidSignature, Settings> =>
  Effect.flatMap(Settings, ({ webhookSecrets }) => {
    const fault = faultOfHmac(webhookSecrets, signature, body)
    return fault === undefined ? Effect.void : Effect.fail(fault)
  })
