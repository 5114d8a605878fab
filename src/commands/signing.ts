// A webhook as LiveKit makes and signs it, for the commands that ring a service.

import { createHash } from "node:crypto"
import { AccessToken } from "livekit-server-sdk"

/** The token that LiveKit sends for these bytes: HS256, five minutes, the base64 SHA-256 of the body. */
export const signBody = async (
  body: Uint8Array,
  key: string,
  secret: string,
  ttl: string | number = "5m",
): Promise<string> => {
  const token = new AccessToken(key, secret, { ttl })
  token.sha256 = createHash("sha256").update(body).digest("base64")
  return token.toJwt()
}

/** What LiveKit sends beside the body. */
export const webhookHeaders = (authorization: string) => ({
  Authorization: authorization,
  "Content-Type": "application/webhook+json",
})

/** What a webhook was answered. */
export interface Answered {
  readonly status: number
  readonly contentType: string
  readonly replayed: boolean
  readonly body: string
  readonly tookMs: number
}

/** Posts bytes to a webhook URL as LiveKit does, with `more` headers. Rejects where nobody answers. */
export const post = async (
  url: string,
  body: Uint8Array<ArrayBuffer>,
  authorization: string,
  signal?: AbortSignal,
  more: Readonly<Record<string, string>> = {},
): Promise<Answered> => {
  const startedAt = performance.now()
  const response = await fetch(url, {
    method: "POST",
    headers: { ...webhookHeaders(authorization), ...more },
    body,
    redirect: "manual",
    signal: signal ?? null,
  })
  const text = await response.text()
  return {
    status: response.status,
    contentType: response.headers.get("content-type") ?? "",
    replayed: response.headers.get("switchhook-replayed") === "true",
    body: text,
    tookMs: performance.now() - startedAt,
  }
}
