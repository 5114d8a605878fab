// The signature of senders without a token: `X-LiveKit-Signature`, an HMAC of the body's exact bytes.

import { createHmac, timingSafeEqual } from "node:crypto"
import { Effect, Redacted } from "effect"
import { Settings } from "../config.ts"
import { InvalidSignature, MissingAuth } from "./signature.ts"

const badSignature = new InvalidSignature({ why: "bad signature" })

/**
 * Checks that one of `Settings.webhookSecrets` signed exactly these bytes.
 * `signature` is the header as it came: HMAC-SHA256 in hex of either case, with or without `sha256=`.
 */
export const verifyHmac = Effect.fnUntraced(function* (
  signature: string | undefined,
  body: Uint8Array,
): Effect.fn.Return<void, MissingAuth | InvalidSignature, Settings> {
  const given = (signature ?? "").trim()
  if (given === "") return yield* Effect.fail(new MissingAuth())
  const hex = given.replace(/^sha256=/i, "")
  if (!/^[0-9a-f]{64}$/i.test(hex)) return yield* Effect.fail(badSignature)
  const claimed = Buffer.from(hex, "hex")

  const { webhookSecrets } = yield* Settings
  // Every secret is tried, so that the time taken does not tell which one matched.
  const matches = webhookSecrets.map((secret) =>
    timingSafeEqual(createHmac("sha256", Redacted.value(secret)).update(body).digest(), claimed),
  )
  if (!matches.includes(true)) return yield* Effect.fail(badSignature)
})
