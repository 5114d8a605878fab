// Stage 1: LiveKit's signature is the authentication. Nothing is parsed before it has passed.

import { Effect } from "effect"
import { decodeEvent, type InvalidPayload, type WebhookEvent } from "../webhook/event.ts"
import type { Keys } from "../webhook/keys.ts"
import { type InvalidSignature, type MissingAuth, verifySignature } from "../webhook/signature.ts"

/** A webhook as it came: the `Authorization` header and the exact bytes of the body. */
export interface SignedRequest {
  readonly authorization: string | undefined
  readonly body: Uint8Array
}

/** The event that one of our keys has signed. */
export const authenticate = (
  request: SignedRequest,
): Effect.Effect<WebhookEvent, MissingAuth | InvalidSignature | InvalidPayload, Keys> =>
  Effect.flatMap(verifySignature(request.authorization, request.body), () => decodeEvent(request.body))
