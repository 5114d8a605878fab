// Which requests are LiveKit's own, and that nothing else ever passes for one.

import { createHash, createHmac } from "node:crypto"
import { Effect, Exit, Layer, Result } from "effect"
import * as fc from "fast-check"
import { AccessToken } from "livekit-server-sdk"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { Settings } from "../../src/config.ts"
import { Keys } from "../../src/webhook/keys.ts"
import { type InvalidSignature, MissingAuth, verifySignature } from "../../src/webhook/signature.ts"
import { recorded, recordings } from "../support/events.ts"
import { cases } from "../support/properties.ts"
import { toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { sha256 } from "../support/tokens.ts"

const secret = "devsecretdevsecretdevsecretdevsecret"
const nextSecret = "nextsecretnextsecretnextsecretnextsecret"

const keys = Keys.layer.pipe(
  Layer.provide(
    Layer.succeed(
      Settings,
      settingsOf({
        LIVEKIT_API_KEY: "devkey",
        LIVEKIT_API_SECRET: secret,
        LIVEKIT_KEYS: `nextkey:${nextSecret}`,
      }),
    ),
  ),
)

type Answer = "passed" | "MissingAuth" | InvalidSignature["why"]

/** Fails the test where the check dies instead of answering. */
const check = async (authorization: string | undefined, body: Uint8Array): Promise<Answer> => {
  const exit = await Effect.runPromiseExit(
    Effect.result(verifySignature(authorization, body)).pipe(Effect.provide(keys)),
  )
  if (Exit.isFailure(exit)) throw new Error(`the check died: ${exit.cause}`)
  if (Result.isSuccess(exit.value)) return "passed"
  const { failure } = exit.value
  return failure instanceof MissingAuth ? "MissingAuth" : failure.why
}

// As livekit-server-sdk signs.
const sign = (body: Uint8Array, key = "devkey", itsSecret = secret) => {
  const token = new AccessToken(key, itsSecret, { ttl: "5m" })
  token.sha256 = sha256(body)
  return token.toJwt()
}

const base64url = (value: unknown) =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url")

// Any header and claims under a signature that is right for them.
const forge = (header: unknown, claims: unknown, hmac = "sha256", itsSecret = secret) => {
  const signed = `${base64url(header)}.${base64url(claims)}`
  return `${signed}.${createHmac(hmac, itsSecret).update(signed).digest("base64url")}`
}

const now = Date.UTC(2026, 10, 21, 12, 0, 0)
const nowSeconds = now / 1000
const body = toBytes('{"event":"participant_joined","id":"EV_b6Gp3qkPzWmA"}')
const hs256 = { alg: "HS256", typ: "JWT" }
const claims = {
  iss: "devkey",
  nbf: nowSeconds,
  iat: nowSeconds,
  exp: nowSeconds + 300,
  sha256: sha256(body),
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"], now })
})
afterEach(() => {
  vi.useRealTimers()
})

describe("a signature passes", () => {
  it("as the SDK makes it, with and without Bearer", async () => {
    const token = await sign(body)
    for (const authorization of [
      token,
      `Bearer ${token}`,
      `bearer ${token}`,
      `Bearer   ${token}`,
      ` ${token} `,
    ]) {
      expect(await check(authorization, body), authorization).toBe("passed")
    }
  })

  it("as the tests forge it, so that what they refuse below is refused for one reason only", async () => {
    expect(await check(forge(hs256, claims), body)).toBe("passed")
  })

  it("under each of two live keys, by the token's iss", async () => {
    expect(await check(await sign(body, "devkey", secret), body)).toBe("passed")
    expect(await check(await sign(body, "nextkey", nextSecret), body)).toBe("passed")
    expect(await check(await sign(body, "devkey", nextSecret), body)).toBe("bad signature")
    expect(await check(await sign(body, "nextkey", secret), body)).toBe("bad signature")
  })

  it.each(recordings)("on every request of the recording %s, at the time of its arrival", async (name) => {
    for (const { at_ms, body, headers } of recorded(name)) {
      vi.setSystemTime(at_ms)
      expect(await check(headers["Authorization"], toBytes(body))).toBe("passed")
      vi.setSystemTime(at_ms + 7 * 60_000)
      expect(await check(headers["Authorization"], toBytes(body))).toBe("token expired")
    }
  })

  it("on an empty body", async () => {
    expect(await check(await sign(new Uint8Array()), new Uint8Array())).toBe("passed")
  })

  it("on the exact bytes only: a byte order mark and invalid UTF-8 count as they are", async () => {
    const odd = {
      marked: new Uint8Array([0xef, 0xbb, 0xbf, ...body]),
      broken: new Uint8Array([...body, 0xff, 0xfe]),
      replaced: new Uint8Array([...body, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd]),
      plain: body,
    }
    for (const [signedName, signed] of Object.entries(odd)) {
      const token = await sign(signed)
      for (const [name, bytes] of Object.entries(odd)) {
        expect(await check(token, bytes), `${signedName}, ${name}`).toBe(
          name === signedName ? "passed" : "hash mismatch",
        )
      }
    }
  })
})

describe("auth is missing", () => {
  it.each([undefined, "", " ", "\t\n", "Bearer", "Bearer ", "bearer", "Bearer  \t "])(
    "in %j",
    async (authorization) => {
      expect(await check(authorization, body)).toBe("MissingAuth")
    },
  )
})

describe("a signature is refused", () => {
  it("where the secret is wrong", async () => {
    expect(await check(await sign(body, "devkey", `${secret}x`), body)).toBe("bad signature")
  })

  it("where the key is not ours", async () => {
    for (const key of ["other", "DEVKEY", "devkey ", "__proto__", "constructor"]) {
      expect(await check(await sign(body, key), body), key).toBe("unknown key")
    }
    expect(await check(forge(hs256, { ...claims, iss: "" }), body)).toBe("unknown key")
  })

  it("where iss is missing or no text", async () => {
    for (const iss of [undefined, null, 7, ["devkey"], { devkey: 1 }]) {
      expect(await check(forge(hs256, { ...claims, iss }), body)).toBe("malformed token")
    }
  })

  it.each([
    ["HS512", "sha512"],
    ["HS384", "sha384"],
    ["hs256", "sha256"],
    ["none", "sha256"],
    ["RS256", "sha256"],
    ["", "sha256"],
  ])("where the algorithm is %j, though its HMAC under our secret is right", async (alg, hmac) => {
    expect(await check(forge({ ...hs256, alg }, claims, hmac), body)).toBe("unsupported algorithm")
  })

  it("where the algorithm is none and nothing is signed", async () => {
    for (const alg of ["none", "None", "NONE"]) {
      expect(await check(`${base64url({ alg })}.${base64url(claims)}.`, body)).toBe("unsupported algorithm")
    }
    expect(await check(`${base64url(hs256)}.${base64url(claims)}.`, body)).toBe("bad signature")
    expect(await check(`${base64url(hs256)}.${base64url(claims)}`, body)).toBe("malformed token")
  })

  it("where the header asks for extensions that nobody understands", async () => {
    expect(await check(forge({ ...hs256, crit: ["exp2"], exp2: 1 }, claims), body)).toBe("malformed token")
  })

  it("more than 60 s after it expired, and not before", async () => {
    const at = (seconds: number) =>
      check(forge(hs256, { ...claims, nbf: 0, exp: nowSeconds + seconds }), body)
    expect(await at(-50)).toBe("passed")
    expect(await at(-59)).toBe("passed")
    expect(await at(-61)).toBe("token expired")
    expect(await at(-70)).toBe("token expired")
    expect(await at(-86_400)).toBe("token expired")
  })

  it("more than 60 s before it begins, and not after", async () => {
    const at = (seconds: number) => check(forge(hs256, { ...claims, nbf: nowSeconds + seconds }), body)
    expect(await at(50)).toBe("passed")
    expect(await at(59)).toBe("passed")
    expect(await at(61)).toBe("token not yet valid")
    expect(await at(70)).toBe("token not yet valid")
  })

  it("where it never expires", async () => {
    for (const exp of [undefined, null, "never", String(nowSeconds + 300)]) {
      expect(await check(forge(hs256, { ...claims, exp }), body), String(exp)).toBe("invalid claims")
    }
  })

  it("where its times are no numbers", async () => {
    const times = [{ nbf: String(nowSeconds) }, { nbf: null }, { iat: "now" }, { exp: [nowSeconds + 300] }]
    for (const time of times) {
      expect(await check(forge(hs256, { ...claims, ...time }), body)).toBe("invalid claims")
    }
  })

  it("where its payload is not encoded", async () => {
    const header = { ...hs256, crit: ["b64"], b64: false }
    expect(await check(forge(header, claims), body)).toBe("malformed token")
  })

  it("for its signature before anything else that only a signed token could tell", async () => {
    for (const wrong of [{ exp: 0 }, { nbf: nowSeconds + 3_600 }, { exp: undefined }, { sha256: "" }]) {
      const token = forge(hs256, { ...claims, ...wrong }, "sha256", `${secret}x`)
      expect(await check(token, body)).toBe("bad signature")
    }
  })

  it("where it holds no hash of the body, or not in padded base64", async () => {
    const padded = sha256(body)
    for (const claimed of [
      undefined,
      null,
      7,
      "",
      [padded],
      { [padded]: padded },
      padded.replace(/=+$/, ""),
      ` ${padded}`,
      padded.toLowerCase(),
      createHash("sha256").update(body).digest("hex"),
      sha256(toBytes("another body")),
    ]) {
      expect(await check(forge(hs256, { ...claims, sha256: claimed }), body), String(claimed)).toBe(
        "hash mismatch",
      )
    }
  })

  it("where the token is cut off anywhere", async () => {
    const token = await sign(body)
    for (let length = 1; length < token.length; length++) {
      expect(["malformed token", "bad signature"]).toContain(await check(token.slice(0, length), body))
    }
  })

  it.each([
    ["a word", "garbage"],
    ["dots", "..."],
    ["two dots", ".."],
    ["basic auth", "Basic ZGV2a2V5OnNlY3JldA=="],
    ["four parts", `${forge(hs256, claims)}.x`],
    ["two tokens", `${forge(hs256, claims)}, ${forge(hs256, claims)}`],
    ["Bearer twice", `Bearer Bearer ${forge(hs256, claims)}`],
    ["a header that is a list", forge([hs256], claims)],
    ["a header that is nothing", forge(null, claims)],
    ["a header without an algorithm", forge({ typ: "JWT" }, claims)],
    ["a header with two algorithms", forge({ alg: ["HS256", "none"] }, claims)],
    ["claims that are a text", forge(hs256, '"devkey"')],
    ["claims that are no JSON", forge(hs256, "{")],
    ["claims nested 100,000 deep", forge(hs256, "[".repeat(100_000) + "]".repeat(100_000))],
    ["a megabyte of dots", ".".repeat(1 << 20)],
    ["a megabyte of letters", "a".repeat(1 << 20)],
    ["NULs", "\0\0\0.\0.\0"],
    ["half a surrogate pair", "\ud800.\udfff.\ud800"],
  ])("where the token is %s", async (_, authorization) => {
    expect(await check(authorization, body)).toBe("malformed token")
  })
})

describe("whatever the bytes are", () => {
  it("a body passes under its own signature, and no other body does", async () => {
    const bytes = fc.uint8Array({ maxLength: 300 })
    await fc.assert(
      fc.asyncProperty(bytes, bytes, async (signed, other) => {
        const token = await sign(signed)
        expect(await check(token, signed)).toBe("passed")
        if (Buffer.compare(signed, other) !== 0) expect(await check(token, other)).toBe("hash mismatch")
      }),
      cases,
    )
  })

  it("a body with one changed, missing or additional byte does not pass", async () => {
    const change = fc.oneof(
      fc.record({
        at: fc.nat(body.length - 1),
        deleted: fc.constant(1),
        bytes: fc.uint8Array({ maxLength: 1 }),
      }),
      fc.record({
        at: fc.nat(body.length),
        deleted: fc.constant(0),
        bytes: fc.uint8Array({ minLength: 1, maxLength: 4 }),
      }),
    )
    const token = await sign(body)
    await fc.assert(
      fc.asyncProperty(change, async ({ at, bytes, deleted }) => {
        const changed = new Uint8Array([...body.slice(0, at), ...bytes, ...body.slice(at + deleted)])
        fc.pre(Buffer.compare(changed, body) !== 0)
        expect(await check(token, changed)).toBe("hash mismatch")
      }),
      cases,
    )
  })

  it("a token with bytes changed does not pass, and breaks nothing", async () => {
    const token = await sign(body)
    const parts = token.split(".")
    // The last character of a signature has two bits that mean nothing: that is no change.
    const means = (changed: string) => {
      const [header, payload, signature = "", ...rest] = changed.trim().split(".")
      return JSON.stringify([header, payload, Buffer.from(signature, "base64url").toString("hex"), rest])
    }
    expect(parts).toHaveLength(3)
    const character = fc.oneof(
      fc.nat(255).map((code) => String.fromCharCode(code)),
      fc.constantFrom(..."abcXYZ019-_.=+/ "),
    )
    const hit = fc.tuple(fc.nat(token.length - 1), fc.nat(2), fc.array(character, { maxLength: 3 }))
    let changes = 0
    await fc.assert(
      fc.asyncProperty(fc.array(hit, { minLength: 1, maxLength: 3 }), async (hits) => {
        let changed = token
        for (const [at, deleted, inserted] of hits) {
          changed = changed.slice(0, at) + inserted.join("") + changed.slice(at + deleted)
        }
        if (means(changed) === means(token)) return
        changes++
        expect(await check(changed, body)).not.toBe("passed")
        expect(await check(`Bearer ${changed}`, body)).not.toBe("passed")
      }),
      { ...cases, numRuns: 2_000 },
    )
    expect(changes).toBeGreaterThan(1_000)
  })

  it("a single flipped bit of the token never passes", async () => {
    const token = await sign(body)
    const [header, payload] = token.split(".")
    const protectedLength = `${header}.${payload}.`.length
    for (let at = 0; at < token.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const changed =
          token.slice(0, at) + String.fromCharCode(token.charCodeAt(at) ^ (1 << bit)) + token.slice(at + 1)
        const signatureOf = (whole: string) =>
          Buffer.from(whole.slice(protectedLength), "base64url").toString("hex")
        if (at >= protectedLength && signatureOf(changed) === signatureOf(token)) continue
        expect(await check(changed, body), `byte ${at}, bit ${bit}`).not.toBe("passed")
      }
    }
  })

  it("an arbitrary header does not pass, and breaks nothing", async () => {
    const part = fc.oneof(
      fc.string(),
      fc.jsonValue().map(base64url),
      fc.constantFrom(base64url(hs256), base64url(claims), base64url({ alg: "none" })),
    )
    const header = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.array(part, { maxLength: 5 }).map((parts) => parts.join(".")),
    )
    await fc.assert(
      fc.asyncProperty(header, async (authorization) => {
        expect(await check(authorization, body)).not.toBe("passed")
      }),
      cases,
    )
  })

  it("a token with arbitrary claims under the right secret breaks nothing, and passes only with its hash", async () => {
    const random = fc.dictionary(
      fc.constantFrom("iss", "exp", "nbf", "iat", "sha256", "alg", "sub"),
      fc.jsonValue(),
    )
    await fc.assert(
      fc.asyncProperty(random, async (random) => {
        const { sha256: _, ...rest } = claims
        expect(await check(forge(hs256, random), body)).not.toBe("passed")
        expect(await check(forge(hs256, { ...random, ...rest }), body)).not.toBe("passed")
      }),
      cases,
    )
  })
})
