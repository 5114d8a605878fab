// Tokens as LiveKit makes them, and tokens with one thing wrong.

import { createHash, createHmac } from "node:crypto"
import { apiKey, apiSecret } from "./service.ts"

export const sha256 = (body: Uint8Array): string => createHash("sha256").update(body).digest("base64")

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url")

const now = () => Math.floor(Date.now() / 1000)

export interface TokenParts {
  readonly key?: string
  readonly secret?: string
  readonly alg?: "HS256" | "HS512" | "none"
  /** Replace or, with `undefined`, remove claims. */
  readonly claims?: Record<string, unknown>
  readonly header?: Record<string, unknown>
}

/** A compact JWS for the body, valid unless the parts say otherwise. */
export const makeToken = (body: Uint8Array, parts: TokenParts = {}): string => {
  const alg = parts.alg ?? "HS256"
  const claims = {
    iss: parts.key ?? apiKey,
    nbf: now(),
    iat: now(),
    exp: now() + 300,
    sha256: sha256(body),
    ...parts.claims,
  }
  const signed = `${encode({ alg, typ: "JWT", ...parts.header })}.${encode(claims)}`
  if (alg === "none") return `${signed}.`
  const hash = alg === "HS512" ? "sha512" : "sha256"
  return `${signed}.${createHmac(hash, parts.secret ?? apiSecret)
    .update(signed)
    .digest("base64url")}`
}
