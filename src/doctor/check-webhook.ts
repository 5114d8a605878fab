// The webhook as LiveKit would use it: reached over https, a signed event taken, an unsigned one refused.

import { Effect, Option, Redacted, Schema } from "effect"
import { eventBody, makeUpCall } from "../commands/made-up-call.ts"
import { signBody, webhookHeaders } from "../commands/signing.ts"
import { sessionsPath, webhookPath } from "../http/webhook-routes.ts"
import { ask, isLoopback, isRedirect, type NoReply, type Reply } from "./asking.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Webhook")

const notGiven = warning("The webhook's URL was not given, and not tried", {
  why: "Whether LiveKit's events arrive, and unsigned ones are refused, shows only there.",
  fix: `npm run doctor -- --url https://<your host>${webhookPath}`,
})

/** The webhook that an address means; one without a path gets the webhook's. `undefined` where it is none. */
export const webhookAt = (raw: string): URL | undefined => {
  const url = URL.canParse(raw) ? new URL(raw) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== "" || url.password !== "")
    return undefined
  if (url.pathname === "/") url.pathname = webhookPath
  return url
}

// ---- The test event

// An event that moves nothing, in no call's room. LiveKit's JSON has spaces where others have none and letters of
// every kind: whatever writes JSON anew in between changes the bytes, and is found out.
const testBody = (): Uint8Array<ArrayBuffer> => {
  const call = makeUpCall({ room: "doctor – Prüfung" })
  const text = new TextDecoder().decode(eventBody(call, "track_published"))
  return new TextEncoder().encode(text.replace('{"event":', '{ "event": ').replaceAll('","', '", "'))
}

const withinMs = 15_000

const postUnsigned = (url: URL, body: Uint8Array) =>
  ask(url, { method: "POST", headers: { "content-type": "application/webhook+json" }, body, withinMs })

const postSigned = Effect.fnUntraced(function* (url: URL, body: Uint8Array, { settings }: World) {
  const { key, secret } = settings.apiKeys[0]!
  const token = yield* Effect.promise(() => signBody(body, key, Redacted.value(secret)))
  return yield* ask(url, { method: "POST", headers: webhookHeaders(token), body, withinMs })
})

// ---- What the answers mean

const unencrypted = (url: URL): ReadonlyArray<Finding> => {
  if (url.protocol === "https:") return []
  const why = "Phone numbers and tokens pass in the clear."
  if (isLoopback(url))
    return [
      warning("The webhook is plain http, on this machine", {
        why,
        fix: "Fine for a try; give LiveKit an https:// URL.",
      }),
    ]
  return [
    error("The webhook is plain http", { why, fix: "Put TLS in front, and give LiveKit the https:// URL." }),
  ]
}

const notReached = (url: URL, { reason }: NoReply): Finding =>
  error(`${url.href} cannot be reached: ${reason}`, {
    why: "LiveKit tries five times within 15 s and gives up: nobody answers the call.",
    fix: "Is the service running (npm start), is the name right, and its certificate valid? curl -i the same URL.",
  })

// To LiveKit each of these is an answer like any other.
const lost = "LiveKit counts that as delivered and sends nothing again: every call is lost."

// What stands behind a question mark may be a secret.
const withoutQuery = (location: string, base: URL): string => {
  if (!URL.canParse(location, base.href)) return ""
  const { origin, pathname } = new URL(location, base)
  return ` to ${origin}${pathname}`
}

/** What is wrong before the service itself has a say; `undefined` where it has. */
const inBetween = (url: URL, reply: Reply): Finding | undefined => {
  const answers = `${url.href} answers ${reply.status}`
  if (isRedirect(reply)) {
    const to = withoutQuery(reply.location, url)
    const fix = "Give LiveKit the URL that it leads to, down to the last slash."
    return error(`${answers}, a redirect${to}`, { why: `LiveKit does not follow it. ${lost}`, fix })
  }
  if (reply.status === 403) {
    const why =
      "Either this machine is none of ALLOWED_SOURCES, or a firewall does not let LiveKit's webhooks pass, either."
    const fix = "Run this from an address that may; see ALLOWED_SOURCES, and behind a proxy TRUSTED_PROXIES."
    return error(answers, { why, fix })
  }
  if (reply.status === 404 || reply.status === 405) {
    return error(`${answers}: there is no webhook`, { why: lost, fix: `The path is ${webhookPath}.` })
  }
  if (reply.status === 429) {
    const why =
      "Too many unsigned requests came from here, or from behind the same proxy; signed ones are never limited."
    return warning(answers, {
      why,
      fix: "Wait a minute, and run this again; behind a proxy set TRUSTED_PROXIES.",
    })
  }
  if (reply.status >= 500) {
    const why = "LiveKit repeats the event, for 15 s at most."
    return error(answers, {
      why,
      fix: "Is the service behind that address running? Its /readyz says why not.",
    })
  }
  return undefined
}

const ofUnsigned = (url: URL, reply: Reply): ReadonlyArray<Finding> => {
  if (reply.status === 401) return []
  const known = inBetween(url, reply)
  if (known !== undefined) return [known]
  return [
    error(`An unsigned event is answered ${reply.status}, not 401`, {
      why: "Either something else answers there, or something signs in between: anybody could make up calls.",
      fix: `See that ${url.href} leads to Switchhook, and to nothing that answers for it.`,
    }),
  ]
}

const Refused = Schema.fromJsonString(Schema.Struct({ errmesg: Schema.String }))
const decodeRefused = Schema.decodeUnknownOption(Refused)
const Problem = Schema.fromJsonString(Schema.Struct({ detail: Schema.String }))
const decodeProblem = Schema.decodeUnknownOption(Problem)
const Taken = Schema.fromJsonString(Schema.Struct({ ok: Schema.Literal(true) }))
const decodeTaken = Schema.decodeUnknownOption(Taken)

/** The session URL beside it says in words what is wrong with a signature. */
const whyRefused = Effect.fnUntraced(function* (url: URL, body: Uint8Array, world: World) {
  if (!url.pathname.endsWith(webhookPath)) return ""
  const beside = new URL(url.href)
  beside.pathname = url.pathname.slice(0, -webhookPath.length) + sessionsPath
  return yield* postSigned(beside, body, world).pipe(
    Effect.map(({ body: said }) => Option.getOrUndefined(decodeRefused(said))?.errmesg ?? ""),
    Effect.orElseSucceed(() => ""),
  )
})

const lostEvent = "LiveKit's own events are refused in the same way, and a refused event is lost for good."

const ofRefused = (reply: Reply, reason: string): Finding => {
  if (Option.getOrUndefined(decodeProblem(reply.body))?.detail === "Missing auth") {
    return error("The signature of a signed event does not arrive (401 Missing auth)", {
      why: lostEvent,
      fix: "Let every proxy in between pass the Authorization header on.",
    })
  }
  if (reason.endsWith("hash mismatch")) {
    return error("The body of a signed event is changed on its way (the keys are right)", {
      why: `The signature is over the exact bytes. ${lostEvent}`,
      fix: "Let no proxy in between read and write JSON anew, re-encode or filter the body (WAF, API gateway).",
    })
  }
  if (reason.endsWith("token expired") || reason.endsWith("token not yet valid")) {
    return error("A signed event is refused for its time: the clocks differ by more than a minute", {
      why: lostEvent,
      fix: "Let a time server set the clocks, here and where the service runs: timedatectl set-ntp true",
    })
  }
  const why = reason.endsWith("unknown key") ? "does not know the key" : "has other keys than these settings"
  return error(`A signed event is refused (401): the service ${why}`, {
    why: lostEvent,
    fix: "Give the service and this command the same LIVEKIT_API_KEY and LIVEKIT_API_SECRET: LiveKit's own.",
  })
}

const trySigned = Effect.fnUntraced(function* (url: URL, body: Uint8Array, world: World) {
  const reply = yield* postSigned(url, body, world)
  if (reply.status === 401) return [ofRefused(reply, yield* whyRefused(url, body, world))]
  const known = inBetween(url, reply)
  if (known !== undefined) return [known]
  if (reply.status === 200 && Option.isSome(decodeTaken(reply.body))) return []
  return [
    error(`A signed event is answered ${reply.status}, and not as Switchhook answers`, {
      why: `Something else answers there. ${lost}`,
      fix: `See that ${url.href} leads to Switchhook, and to nothing that answers for it.`,
    }),
  ]
})

const notReady = ({ service }: World): ReadonlyArray<Finding> =>
  service.kind !== "not ready"
    ? []
    : [
        error(`The service is not ready: ${service.reasons.join("; ")}`, {
          why: "Calls get a 503 now, or a load balancer sends none.",
          fix: `Mend what it names; curl ${service.at} says when it is ready.`,
        }),
      ]

/** Posts two events that move nothing, one of them unsigned. */
export const checkWebhook = (world: World): Effect.Effect<ReadonlyArray<Finding>> => {
  const url = world.webhook
  if (url === undefined) return Effect.succeed([notGiven])
  const body = testBody()
  return Effect.gen(function* () {
    const unsigned = ofUnsigned(url, yield* postUnsigned(url, body))
    const signed = yield* trySigned(url, body, world)
    // Where both fail alike, once is enough.
    const distinct = unsigned.filter(({ what }) => !signed.some((finding) => finding.what === what))
    const problems = [...distinct, ...signed]
    const answers = ok(`${url.href} takes a signed event and refuses an unsigned one`)
    return [...unencrypted(url), ...(problems.length === 0 ? [answers] : problems), ...notReady(world)]
  }).pipe(
    Effect.catchTag("NoReply", (noReply) => Effect.succeed([...unencrypted(url), notReached(url, noReply)])),
  )
}
