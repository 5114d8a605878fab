// The LiveKit API keys that may sign a webhook; several are live at once while keys are rotated.

import { Context, Effect, Layer, Redacted } from "effect"
import { TokenVerifier } from "livekit-server-sdk"
import { Settings } from "../config.ts"

export class Keys extends Context.Service<
  Keys,
  {
    /** The names of the keys, for an operator. */
    readonly names: ReadonlyArray<string>
    /** The verifier for a token's `iss`, if that key is ours. */
    readonly verifierOf: (issuer: string) => TokenVerifier | undefined
  }
>()("switchhook/webhook/Keys") {
  static readonly layer = Layer.effect(
    Keys,
    Effect.gen(function* () {
      const { apiKeys } = yield* Settings
      const verifiers = new Map(
        apiKeys.map(({ key, secret }) => [key, new TokenVerifier(key, Redacted.value(secret))]),
      )
      return Keys.of({ names: [...verifiers.keys()], verifierOf: (issuer) => verifiers.get(issuer) })
    }),
  )
}
