// Our verifier against livekit-server-sdk's: the same answer to every token and body, however odd.

import { createHmac } from "node:crypto"
import { Effect, Layer, Predicate } from "effect"
import * as fc from "fast-check"
import { AccessToken, TokenVerifier, WebhookReceiver } from "livekit-server-sdk"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { Settings } from "../../src/config.ts"
import { Keys } from "../../src/webhook/keys.ts"
import { faultOfSignature, type InvalidSignature, MissingAuth } from "../../src/webhook/signature.ts"
import { recorded } from "../support/events.ts"
import { ownRuntime } from "../support/processes.ts"
import { cases } from "../support/properties.ts"
import { toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { sha256 } from "../support/tokens.ts"

const secrets = new Map([
  ["devkey", "devsecretdevsecretdevsecretdevsecret"],
  ["nextkey", "nextsécretnextsécretnextsécretnextsécret"],
])
const [devSecret = "", nextSecret = ""] = secrets.values()

const keys = Effect.runSync(
  Effect.provide(
    Effect.map(Keys, (keys) => keys),
    Layer.provide(
      Keys.layer,
      Layer.succeed(
        Settings,
        settingsOf({
          LIVEKIT_API_KEY: "devkey",
          LIVEKIT_API_SECRET: devSecret,
          LIVEKIT_KEYS: `nextkey:${nextSecret}`,
        }),
      ),
    ),
  ),
)

type Answer = "passed" | "MissingAuth" | InvalidSignature["why"]

const ours = (authorization: string | undefined, body: Uint8Array): Answer => {
  const fault = faultOfSignature(keys, authorization, body)
  if (fault === undefined) return "passed"
  return fault instanceof MissingAuth ? "MissingAuth" : fault.why
}

const mac = (secret: string, signed: string, hash = "sha256") =>
  createHmac(hash, secret).update(signed).digest()

// On Deno the SDK's jose reads base64 with `atob`, which stops at what Buffer skips on either runtime. So that we answer
// the same on both, Deno's SDK is asked about the token as Node's reads it: spelled well, and signed well if it was.
const asNodeReads = (token: string) => {
  const parts = token.split(".")
  if (ownRuntime !== "deno" || parts.length !== 3) return token
  const [header, payload, signature] = parts.map((part) => Buffer.from(part, "base64url"))
  const signed = `${header!.toString("base64url")}.${payload!.toString("base64url")}`
  const secret = [...secrets.values()].find((secret) =>
    mac(secret, token.slice(0, token.lastIndexOf("."))).equals(signature!),
  )
  return `${signed}.${(secret === undefined ? Buffer.alloc(32) : mac(secret, signed)).toString("base64url")}`
}

const whyOf = (error: unknown): InvalidSignature["why"] => {
  const [code, claim, reason] = ["code", "claim", "reason"].map((name) =>
    Predicate.hasProperty(error, name) ? error[name] : undefined,
  )
  if (code === "ERR_JWS_SIGNATURE_VERIFICATION_FAILED") return "bad signature"
  if (code === "ERR_JWT_EXPIRED") return "token expired"
  if (code !== "ERR_JWT_CLAIM_VALIDATION_FAILED") return "malformed token"
  return claim === "nbf" && reason === "check_failed" ? "token not yet valid" : "invalid claims"
}

const jsonOf = (part: string | undefined): Record<string, unknown> => {
  try {
    return { ...JSON.parse(Buffer.from(part ?? "", "base64url").toString("utf8")) }
  } catch {
    return {}
  }
}

/**
 * The SDK's answer, and what has to be asked around it: it takes one key, any HMAC that the header names, and no more
 * than the claims.
 */
const theirs = async (authorization: string | undefined, body: Uint8Array): Promise<Answer> => {
  const token = (authorization ?? "").replace(/^Bearer(?=\s|$)/i, "").trim()
  if (token === "") return "MissingAuth"
  const parts = token.split(".")
  const { alg } = jsonOf(parts[0])
  if (parts.length === 1 || parts.length > 3 || typeof alg !== "string") return "malformed token"
  if (alg !== "HS256") return "unsupported algorithm"
  const { iss } = jsonOf(parts[1])
  if (typeof iss !== "string") return "malformed token"
  const secret = secrets.get(iss)
  if (secret === undefined) return "unknown key"
  try {
    const claims = await new TokenVerifier(iss, secret).verify(asNodeReads(token), 60)
    return claims["sha256"] === sha256(body) ? "passed" : "hash mismatch"
  } catch (error) {
    return whyOf(error)
  }
}

const now = Date.UTC(2026, 10, 21, 12, 0, 0)
const nowSeconds = now / 1000

beforeAll(() => {
  vi.useFakeTimers({ toFake: ["Date"], now })
})
afterAll(() => {
  vi.useRealTimers()
})

const seen = new Map<Answer, number>()

const agree = async (authorization: string | undefined, body: Uint8Array) => {
  const answer = await theirs(authorization, body)
  expect(ours(authorization, body), JSON.stringify(authorization)).toBe(answer)
  seen.set(answer, (seen.get(answer) ?? 0) + 1)
}

// Mostly the first, so that one thing is wrong more often than all.
const mostly = <A>(usual: A, ...odd: ReadonlyArray<A>) =>
  fc.oneof({ weight: 12, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...odd) })

const seconds = (usual: number, ...edges: ReadonlyArray<number>) =>
  mostly<unknown>(
    nowSeconds + usual,
    ...edges.flatMap((edge) => [-1, -0.5, 0, 0.001, 1].map((beside) => nowSeconds + edge + beside)),
    undefined,
    null,
    String(nowSeconds),
    [nowSeconds],
    {},
    true,
    0,
    -1,
    1e300,
  )

const header = fc.record({
  alg: mostly<unknown>("HS256", "HS384", "HS512", "hs256", "none", "RS256", "", 7, ["HS256"], undefined),
  typ: mostly<unknown>("JWT", undefined, "jwt", "JOSE", 7),
  crit: mostly<unknown>(
    undefined,
    ["b64"],
    ["b64", "b64"],
    ["exp"],
    ["b64", "exp"],
    [],
    ["alg"],
    [""],
    "b64",
    null,
  ),
  b64: fc.constantFrom<unknown>(undefined, true, false, "false", null),
  kid: mostly<unknown>(undefined, "k", "é\u{1f4de}"),
})

const hashes: ReadonlyArray<(body: Uint8Array) => unknown> = [
  sha256,
  (body) => sha256(body).replace("=", ""),
  (body) => sha256(body).replaceAll("+", "-").replaceAll("/", "_"),
  (body) => sha256(body).toLowerCase(),
  (body) => ` ${sha256(body)}`,
  // The same low bytes.
  (body) => sha256(body).replace(/^./, (first) => String.fromCharCode(first.charCodeAt(0) + 256)),
  (body) => [sha256(body)],
  () => sha256(new Uint8Array()),
  () => "",
  () => undefined,
]

const claims = fc.record({
  iss: mostly<unknown>(
    "devkey",
    "nextkey",
    "other",
    "",
    "__proto__",
    "devkey ",
    null,
    7,
    ["devkey"],
    undefined,
  ),
  nbf: seconds(0, 60),
  iat: seconds(0, 60),
  exp: seconds(300, -60),
  hash: mostly(...(hashes as [(body: Uint8Array) => unknown])),
})

const identity = (text: string) => text

// JSON beyond what an object can say.
const writing = mostly<(json: string) => string>(
  identity,
  (json) => ` ${json}\n`,
  (json) => `\ufeff${json}`,
  (json) => `[${json}]`,
  (json) => json.slice(1),
  (json) => `${json.slice(0, -1)},"exp":1e400}`,
  (json) => `${json.slice(0, -1)},"nbf":-1e400}`,
  (json) => `${json.slice(0, -1)},"iss":"nextkey"}`,
  (json) => `${json.slice(0, -1)},"__proto__":{"crit":["x"],"iss":"x","exp":1}}`,
  (json) => `{"__proto__":${json}}`,
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Other spellings of the same base64, and some that are none.
const spelling = mostly<(part: string) => string>(
  identity,
  (part) => `${part}=`,
  (part) => `${part}==`,
  (part) => `=${part}`,
  (part) => part.replaceAll("-", "+").replaceAll("_", "/"),
  (part) => ` ${part}`,
  (part) => `${part.slice(0, 9)}\t\r\n${part.slice(9)}`,
  (part) => `${part.slice(0, 9)}!\u00e9${part.slice(9)}`,
  (part) => `${part.slice(0, 9)}=${part.slice(9)}`,
  // The last character's low bits, which mean nothing at the end of a part that fills no byte with them.
  (part) => part.slice(0, -1) + alphabet[alphabet.indexOf(part.slice(-1)) ^ 1],
  (part) => part.slice(0, -1) + alphabet[alphabet.indexOf(part.slice(-1)) ^ 2],
  (part) => `${part}A`,
  () => "",
)

const hit = fc.record({
  at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  dropped: fc.nat(1),
  added: fc.oneof(
    fc.nat(255).map((code) => String.fromCharCode(code)),
    fc.constantFrom("", "", ..."azAZ09-_.=+/ \t"),
  ),
})

const edit = (text: string, hits: ReadonlyArray<{ at: number; dropped: number; added: string }>) =>
  hits.reduce((text, { added, at, dropped }) => {
    const start = Math.floor(at * text.length)
    return text.slice(0, start) + added + text.slice(start + dropped)
  }, text)

const prefix = mostly(
  "Bearer ",
  "",
  "bearer ",
  "BEARER\t",
  "Bearer   ",
  " ",
  " Bearer ",
  "Bearer",
  "Bearer Bearer ",
  "Basic ",
)

const event = toBytes(recorded("rang-out")[1]!.body)
const flipped = (body: Uint8Array, bit: number) =>
  body.map((byte, at) => (at === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))

const bodies = fc.oneof(
  fc.constant(event),
  fc.constantFrom(
    new Uint8Array(),
    new Uint8Array([0xef, 0xbb, 0xbf, ...event]),
    new Uint8Array([...event, 0xff, 0xc3]),
    new Uint8Array([...event, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd]),
  ),
  fc.uint8Array({ maxLength: 100 }),
)

const attempt = fc.record({
  header,
  claims,
  writings: fc.tuple(writing, writing),
  spellings: fc.tuple(spelling, spelling, spelling),
  signsSpelling: fc.boolean(),
  wrongSecret: mostly(false, true),
  hits: fc.oneof({ weight: 4, arbitrary: fc.constant([]) }, fc.array(hit, { minLength: 1, maxLength: 2 })),
  prefix,
  body: bodies,
  flip: fc.oneof({ weight: 6, arbitrary: fc.constant(undefined) }, fc.nat()),
  millis: fc.constantFrom(0, 500, 999),
})

type Attempt = typeof attempt extends fc.Arbitrary<infer A> ? A : never

const base64url = (text: string) => Buffer.from(text).toString("base64url")

const signed = (header: unknown, claims: unknown, secret = devSecret) => {
  const text = [header, claims].map((part) => base64url(JSON.stringify(part))).join(".")
  return `${text}.${mac(secret, text).toString("base64url")}`
}

const tokenOf = ({
  body,
  claims,
  header,
  hits,
  signsSpelling,
  spellings,
  wrongSecret,
  writings,
}: Attempt) => {
  const { hash, ...rest } = claims
  const parts = [header, { ...rest, sha256: hash(body) }].map((fields, n) =>
    base64url(writings[n]!(JSON.stringify(fields))),
  )
  const [head, payload] = parts.map((part, n) => spellings[n]!(part))
  const secret = secrets.get(wrongSecret ? "other" : String(claims.iss)) ?? `${devSecret}x`
  const hmac = { HS384: "sha384", HS512: "sha512" }[String(header.alg)] ?? "sha256"
  const signature = mac(secret, signsSpelling ? `${head}.${payload}` : parts.join("."), hmac)
  return edit(`${head}.${payload}.${spellings[2](signature.toString("base64url"))}`, hits)
}

describe("our verifier answers as the SDK does", () => {
  it("to 10,000 random tokens, bodies and times", async () => {
    seen.clear()
    await fc.assert(
      fc.asyncProperty(attempt, async (attempt) => {
        vi.setSystemTime(now + attempt.millis)
        const { body, flip } = attempt
        const sent = flip === undefined || body.length === 0 ? body : flipped(body, flip % (body.length * 8))
        await agree(attempt.prefix + tokenOf(attempt), sent)
      }),
      { ...cases, numRuns: 10_000 },
    )
    // Each answer was met often.
    const answers = [
      "passed",
      "malformed token",
      "unsupported algorithm",
      "unknown key",
      "bad signature",
      "token expired",
      "token not yet valid",
      "invalid claims",
      "hash mismatch",
    ] satisfies ReadonlyArray<Answer>
    for (const answer of answers) expect(seen.get(answer) ?? 0, answer).toBeGreaterThan(50)
  }, 120_000)

  it("to a good token with any one character changed, dropped or doubled", async () => {
    vi.setSystemTime(now)
    const access = new AccessToken("nextkey", nextSecret, { ttl: 300 })
    access.sha256 = sha256(event)
    const token = await access.toJwt()
    expect(ours(token, event)).toBe("passed")
    for (let at = 0; at < token.length; at++) {
      const [before, char, after] = [token.slice(0, at), token.charAt(at), token.slice(at + 1)]
      const others = [1, 2, 4, 32, 128].map((bit) => String.fromCharCode(char.charCodeAt(0) ^ bit))
      for (const other of ["", char + char, ...others]) await agree(before + other + after, event)
    }
  })

  it("to every mixture of times", async () => {
    vi.setSystemTime(now)
    const times = (edge: number) => [
      ...[-1, 0, 1].map((beside) => nowSeconds + edge + beside),
      ...[undefined, null, "1", 1e300],
    ]
    for (const exp of times(-60)) {
      for (const nbf of times(60)) {
        for (const iat of times(60)) {
          await agree(
            signed({ alg: "HS256" }, { iss: "devkey", exp, nbf, iat, sha256: sha256(event) }),
            event,
          )
        }
      }
    }
  })

  it("to every mixture of what is wrong with the header, the issuer and the signature", async () => {
    vi.setSystemTime(now)
    const crits = [undefined, null, [], ["b64"], ["b64", "b64"], ["exp"], ["b64", "exp"], "b64"]
    for (const alg of ["HS256", "HS512", 7]) {
      for (const crit of crits) {
        for (const b64 of [undefined, true, false, "false"]) {
          for (const iss of ["devkey", "other", 7]) {
            const parts = [
              { alg, crit, b64 },
              { iss, exp: nowSeconds + 300, sha256: sha256(event) },
            ] as const
            for (const token of [signed(...parts), signed(...parts, nextSecret)]) {
              await agree(token, event)
              await agree(token.slice(0, token.lastIndexOf(".")), event)
            }
          }
        }
      }
    }
  })

  it("to an Authorization that holds no token", async () => {
    for (const authorization of [
      undefined,
      "",
      " ",
      "Bearer",
      "bearer \t",
      "Bearer.",
      ".",
      "..",
      "...",
      "x",
      "Bearer x",
    ]) {
      await agree(authorization, event)
    }
  })
})

describe("the SDK's receiver of webhooks", () => {
  const receiver = new WebhookReceiver("devkey", devSecret)
  const receives = (token: string, text: string) =>
    receiver.receive(text, token, false, 60).then(
      () => true,
      () => false,
    )
  const sign = (body: Uint8Array) =>
    signed({ alg: "HS256", typ: "JWT" }, { iss: "devkey", exp: nowSeconds + 300, sha256: sha256(body) })

  it("takes the same events, wherever a bit is changed", async () => {
    vi.setSystemTime(now)
    const token = sign(event)
    const text = (body: Uint8Array) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(body)
    expect(await receives(token, text(event))).toBe(true)
    expect(ours(token, event)).toBe("passed")
    await fc.assert(
      fc.asyncProperty(fc.nat(event.length * 8 - 1), async (bit) => {
        const changed = flipped(event, bit)
        expect(await receives(token, text(changed))).toBe(false)
        expect(ours(token, changed)).toBe("hash mismatch")
      }),
      { ...cases, numRuns: 300 },
    )
  })

  it.each([
    ["a byte order mark", new Uint8Array([0xef, 0xbb, 0xbf, ...event])],
    ["invalid UTF-8", toBytes('{"event":"x"}').map((byte) => (byte === 0x78 ? 0xff : byte))],
  ])("hashes %s as it was decoded, and we as it came", async (_, body) => {
    vi.setSystemTime(now)
    const decoded = new TextDecoder().decode(body)
    const asItCame = sign(body)
    const asDecoded = sign(toBytes(decoded))
    expect([await receives(asItCame, decoded), ours(asItCame, body)]).toEqual([false, "passed"])
    expect([await receives(asDecoded, decoded), ours(asDecoded, body)]).toEqual([true, "hash mismatch"])
  })
})
