// The LiveKit API keys that may sign a webhook; several are live at once while keys are rotated.

import { createSecretKey, type KeyObject } from "node:crypto"
import { Context, Effect, Layer, Redacted } from "effect"
import { Settings } from "../config.ts"

export class Keys extends Context.Service<
  Keys,
  {
    /** The names of the keys, for an operator. */
    readonly names: ReadonlyArray<string>
    /** The secret that signs for a token's `iss`, if that key is ours. */
    readonly secretOf: (issuer: string) => KeyObject | undefined
  }
>()("switchhook/webhook/Keys") {
  static readonly layer = Layer.effect(
    Keys,
    Effect.gen(function* () {
      const { apiKeys } = yield* Settings
      const secrets = new Map(
        apiKeys.map(({ key, secret }) => [key, createSecretKey(Redacted.value(secret), "utf8")]),
      )
      return Keys.of({ names: [...secrets.keys()], secretOf: (issuer) => secrets.get(issuer) })
    }),
  )
}
