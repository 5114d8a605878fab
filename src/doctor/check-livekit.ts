// LiveKit's API: whether it is set, reached, takes our keys, and lists its trunks.

import { Option, Result } from "effect"
import { LiveKitRefused, whatWentWrong } from "../livekit/sip.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("LiveKit")

const notSet = warning("LIVEKIT_URL is not set", {
  why: "No agent can be dispatched, nobody knows whether callers are still there, and trunks cannot be checked.",
  fix: "Set LIVEKIT_URL to your project's wss:// URL.",
})

const unauthorised = new LiveKitRefused({ status: 401, code: undefined })

const keyRefused = (key: string) =>
  error(`It does not accept the key ${JSON.stringify(key)} (401)`, {
    why:
      "Either LiveKit does not know the key, or the secret is another one, or the clock is far off. Webhooks that " +
      "are signed with LiveKit's own key are then refused, too, and a refused event is lost for good.",
    fix: "Set LIVEKIT_API_KEY and LIVEKIT_API_SECRET to a pair of the LiveKit that LIVEKIT_URL names.",
  })

const oldKeys = (keys: ReadonlyArray<string>): ReadonlyArray<Finding> =>
  keys.map((key) =>
    warning(`It does not accept the key ${JSON.stringify(key)} of LIVEKIT_KEYS`, {
      why: "A key that LiveKit has forgotten still lets whoever has its secret sign calls here.",
      fix: "Take the pair out of LIVEKIT_KEYS once LiveKit signs with the new key; or correct its secret.",
    }),
  )

const withoutPath = (raw: string) => new URL(raw).host

export const checkLiveKit = ({ livekit, settings }: World): ReadonlyArray<Finding> => {
  if (livekit.kind === "not configured") return [notSet]
  const host = Option.match(settings.livekitUrl, { onNone: () => "", onSome: withoutPath })
  if (livekit.kind === "no answer") {
    return [
      error(`${host}: ${whatWentWrong(livekit.error)}`, {
        why: "Agents cannot be dispatched, and a caller who has left cannot be told from one who waits.",
        fix: `Correct LIVEKIT_URL; if it is right, see whether this machine may connect there: curl -i https://${host}`,
      }),
    ]
  }
  const key = settings.apiKeys[0]?.key ?? ""
  const failure = Option.getOrUndefined(Result.getFailure(livekit.there))
  if (failure?._tag === unauthorised._tag && failure.status === unauthorised.status)
    return [keyRefused(key), ...oldKeys(livekit.refusedKeys)]
  if (failure !== undefined) {
    return [
      error(`${host} does not list its trunks: ${whatWentWrong(failure)}`, {
        why: "Calls come in over SIP trunks: without LiveKit's SIP service there are none.",
        fix: "On a LiveKit of your own, run livekit-sip on the same Redis; otherwise try again.",
      }),
      ...oldKeys(livekit.refusedKeys),
    ]
  }
  return [ok(`${host} answers and accepts the key ${JSON.stringify(key)}`), ...oldKeys(livekit.refusedKeys)]
}
