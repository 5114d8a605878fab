// Stage 1: LiveKit's signature is the authentication. Nothing is parsed before it has passed.

import { Effect } from "effect"
import { timedNow } from "../metrics.ts"
import { type InvalidPayload, readEvent, type WebhookEvent } from "../webhook/event.ts"
import { Keys } from "../webhook/keys.ts"
import { faultOfSignature, type InvalidSignature, type MissingAuth } from "../webhook/signature.ts"

/** A webhook as it came: the `Authorization` header and the exact bytes of the body. */
export interface SignedRequest {
  readonly authorization: string | undefined
  readonly body: Uint8Array
}

/** What the bytes of a request are: an event that one of our keys has signed, and how long it took to see that (ms). */
export interface Authentic {
  readonly _tag: "Authentic"
  readonly event: WebhookEvent
  readonly ms: number
}

/** What they are else. */
export type NotAuthentic = MissingAuth | InvalidSignature | InvalidPayload

/** What a request is, which needs nobody else. */
export const authenticityOf = (keys: Keys["Service"], request: SignedRequest): Authentic | NotAuthentic => {
  const { ms, value } = timedNow(
    "authenticate",
    () => faultOfSignature(keys, request.authorization, request.body) ?? readEvent(request.body),
  )
  return "_tag" in value ? value : { _tag: "Authentic", event: value, ms }
}

/** The event that one of our keys has signed; `known` where that was seen already. */
export const authenticate = (
  request: SignedRequest,
  known?: Authentic,
): Effect.Effect<Authentic, NotAuthentic, Keys> =>
  Effect.flatMap(Keys, (keys) => {
    const authenticity = known ?? authenticityOf(keys, request)
    return authenticity._tag === "Authentic" ? Effect.succeed(authenticity) : Effect.fail(authenticity)
  })
