// Which requests are signed with one of our secrets, and that nothing else ever passes for one.

import { createHmac } from "node:crypto"
import { Effect, Exit, Layer, Result } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Settings } from "../../src/config.ts"
import { verifyHmac } from "../../src/webhook/hmac.ts"
import { type InvalidSignature, MissingAuth } from "../../src/webhook/signature.ts"
import { cases } from "../support/properties.ts"
import { toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"

const secret = "devsecretdevsecretdevsecretdevsecret"
const nextSecret = "nextsecretnextsecretnextsecretnextsecret"
const webhookSecret = "wébhöok-secret"

const env = {
  LIVEKIT_API_KEY: "devkey",
  LIVEKIT_API_SECRET: secret,
  LIVEKIT_KEYS: `nextkey:${nextSecret}`,
}
const keysAlone = settingsOf(env)
const withSecret = (secret: string) => settingsOf({ ...env, WEBHOOK_SECRET: secret })

type Answer = "passed" | "MissingAuth" | InvalidSignature["why"]

/** Fails the test where the check dies instead of answering. */
const check = async (
  signature: string | undefined,
  body: Uint8Array,
  settings = keysAlone,
): Promise<Answer> => {
  const exit = await Effect.runPromiseExit(
    Effect.result(verifyHmac(signature, body)).pipe(Effect.provide(Layer.succeed(Settings, settings))),
  )
  if (Exit.isFailure(exit)) throw new Error(`the check died: ${exit.cause}`)
  if (Result.isSuccess(exit.value)) return "passed"
  const { failure } = exit.value
  return failure instanceof MissingAuth ? "MissingAuth" : failure.why
}

const sign = (body: Uint8Array, itsSecret = secret, hash = "sha256") =>
  createHmac(hash, itsSecret).update(body).digest("hex")

const body = toBytes('{"call_id":"SCL_9f","from_number":"+15551234567","to_number":"+15557654321"}')

describe("a signature passes", () => {
  it("as a published example has it", async () => {
    // RFC 4231, test case 2.
    const example = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    expect(await check(example, toBytes("what do ya want for nothing?"), withSecret("Jefe"))).toBe("passed")
  })

  it("in hex of either case, with and without a prefix", async () => {
    const hex = sign(body)
    const mixed = hex.slice(0, 32) + hex.slice(32).toUpperCase()
    for (const signature of [hex, hex.toUpperCase(), mixed, `sha256=${hex}`, `SHA256=${hex}`, ` ${hex} `]) {
      expect(await check(signature, body), signature).toBe("passed")
    }
  })

  it("under each secret of LiveKit's keys, where there is no other", async () => {
    expect(await check(sign(body, secret), body)).toBe("passed")
    expect(await check(sign(body, nextSecret), body)).toBe("passed")
  })

  it("under the webhook secret alone, where there is one", async () => {
    const settings = withSecret(webhookSecret)
    expect(await check(sign(body, webhookSecret), body, settings)).toBe("passed")
    expect(await check(sign(body, secret), body, settings)).toBe("bad signature")
  })

  it("on the exact bytes only", async () => {
    const bodies = [
      new Uint8Array(),
      body,
      new Uint8Array([0xef, 0xbb, 0xbf, ...body]),
      new Uint8Array([...body, 0xff]),
      new Uint8Array([...body, 0xef, 0xbf, 0xbd]),
    ]
    for (const [n, signed] of bodies.entries()) {
      for (const [m, bytes] of bodies.entries()) {
        expect(await check(sign(signed), bytes), `${n}, ${m}`).toBe(n === m ? "passed" : "bad signature")
      }
    }
  })
})

describe("auth is missing", () => {
  it.each([undefined, "", " ", "\t"])("in %j", async (signature) => {
    expect(await check(signature, body)).toBe("MissingAuth")
  })
})

describe("a signature is refused", () => {
  const hex = sign(body)
  it.each([
    ["under another secret", sign(body, `${secret}x`)],
    ["under no secret", sign(body, "")],
    ["as SHA-1", sign(body, secret, "sha1")],
    ["as SHA-512", sign(body, secret, "sha512")],
    ["one digit short", hex.slice(1)],
    ["one byte short", hex.slice(2)],
    ["one byte long", `${hex}00`],
    ["twice", `${hex}, ${hex}`],
    ["in base64", Buffer.from(hex, "hex").toString("base64")],
    ["with a letter that is no digit", `g${hex.slice(1)}`],
    ["with a wide digit", `\uff11${hex.slice(1)}`],
    ["with a line break", `${hex.slice(0, 32)}\n${hex.slice(32)}`],
    ["behind another prefix", `sha1=${hex}`],
    ["behind two prefixes", `sha256=sha256=${hex}`],
    ["as a prefix alone", "sha256="],
    ["as 0x", `0x${hex.slice(2)}`],
    ["of zeros", "0".repeat(64)],
    ["of a megabyte", "a".repeat(1 << 20)],
  ])("%s", async (_, signature) => {
    expect(await check(signature, body)).toBe("bad signature")
  })
})

describe("whatever the bytes are", () => {
  it("a body passes under its own signature, and no other body or signature does", async () => {
    const bytes = fc.uint8Array({ maxLength: 200 })
    const digit = fc.tuple(fc.nat(63), fc.integer({ min: 1, max: 15 }))
    await fc.assert(
      fc.asyncProperty(bytes, bytes, digit, async (signed, other, [at, change]) => {
        const hex = sign(signed)
        expect(await check(hex, signed)).toBe("passed")
        if (Buffer.compare(signed, other) !== 0) expect(await check(hex, other)).toBe("bad signature")
        const changed = (Number.parseInt(hex.charAt(at), 16) ^ change).toString(16)
        expect(await check(hex.slice(0, at) + changed + hex.slice(at + 1), signed)).toBe("bad signature")
      }),
      cases,
    )
  })

  it("an arbitrary header does not pass, and breaks nothing", async () => {
    const header = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.stringMatching(/^(sha256=)?[0-9a-fA-F]{60,68}$/),
    )
    await fc.assert(
      fc.asyncProperty(header, async (signature) => {
        expect(await check(signature, body)).not.toBe("passed")
      }),
      cases,
    )
  })
})
