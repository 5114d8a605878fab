// What LiveKit says when it is asked: whether it takes our keys, what its clock says, its trunks and rules.

import { Clock, Effect, Layer, Option, Result } from "effect"
import type { There } from "../carriers/provisioning.ts"
import { type ApiKey, Settings, type SettingsShape } from "../config.ts"
import { type LiveKitError, LiveKitSip } from "../livekit/sip.ts"

/** When LiveKit said what time it is, by its clock and by ours; in ms. */
export interface Clocks {
  /** LiveKit's, without its fraction of a second. */
  readonly theirs: number
  readonly askedAt: number
  readonly answeredAt: number
}

export type LiveKitView =
  | { readonly kind: "not configured" }
  | { readonly kind: "no answer"; readonly error: LiveKitError }
  | {
      readonly kind: "answers"
      readonly accepted: boolean
      readonly clocks: Clocks | undefined
      readonly there: Result.Result<There, LiveKitError>
      /** The keys beside the first that it does not take. */
      readonly refusedKeys: ReadonlyArray<string>
    }

const withinMs = 10_000

// Fresh: a layer is built once only, and with another key it would be the first one's.
const sipOf = (settings: SettingsShape) =>
  Layer.provide(Layer.fresh(LiveKitSip.layer), Layer.succeed(Settings, settings))

const takes = (settings: SettingsShape, key: ApiKey): Effect.Effect<boolean, LiveKitError> =>
  Effect.gen(function* () {
    return (yield* (yield* LiveKitSip).serverTime(withinMs)).accepted
  }).pipe(Effect.provide(sipOf({ ...settings, apiKeys: [key] })))

const refusedOf = (settings: SettingsShape) =>
  Effect.filter(settings.apiKeys.slice(1), (key) =>
    // Without an answer nothing is known of the key.
    takes(settings, key).pipe(
      Effect.map((taken) => !taken),
      Effect.orElseSucceed(() => false),
    ),
  )

const listed = Effect.gen(function* () {
  const sip = yield* LiveKitSip
  return yield* Effect.result(
    Effect.all({ trunks: sip.inboundTrunks(withinMs), rules: sip.dispatchRules(withinMs) }),
  )
})

/** Asks the LiveKit of `LIVEKIT_URL`, and changes nothing there. */
export const lookAtLiveKit = (settings: SettingsShape): Effect.Effect<LiveKitView> =>
  Effect.gen(function* () {
    const sip = yield* LiveKitSip
    // The connection is made first, so that it does not count for the clocks.
    const first = yield* Effect.result(sip.serverTime(withinMs))
    if (Result.isFailure(first)) return { kind: "no answer" as const, error: first.failure }
    const askedAt = yield* Clock.currentTimeMillis
    const time = yield* Effect.orElseSucceed(sip.serverTime(withinMs), () => first.success)
    const answeredAt = yield* Clock.currentTimeMillis
    return {
      kind: "answers" as const,
      accepted: time.accepted,
      clocks: time.date === undefined ? undefined : { theirs: time.date, askedAt, answeredAt },
      there: yield* listed,
      refusedKeys: (yield* refusedOf(settings)).map(({ key }) => key),
    }
  }).pipe(
    Effect.provide(sipOf(settings)),
    Effect.when(Effect.succeed(Option.isSome(settings.livekitUrl))),
    Effect.map(Option.getOrElse((): LiveKitView => ({ kind: "not configured" }))),
  )

/** The trunks and rules, where LiveKit has named them. */
export const thereIn = (livekit: LiveKitView): There | undefined =>
  livekit.kind === "answers" ? Option.getOrUndefined(Result.getSuccess(livekit.there)) : undefined
