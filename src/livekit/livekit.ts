// LiveKit's API: who is in a room, and an agent sent into it. Knows whether a request that failed may have arrived.

import { Context, Data, Effect, Layer, Option, Predicate, Redacted } from "effect"
import {
  AgentDispatchClient,
  type ClientOptions,
  ParticipantInfo,
  RoomServiceClient,
  ServerError,
} from "livekit-server-sdk"
import { Settings } from "../config.ts"

/** Somebody in a room, or who was there when LiveKit crashed; `kind` by LiveKit's name for it, as in a webhook. */
export interface RoomParticipant {
  readonly sid: string
  readonly identity: string
  readonly kind: string
  readonly joinedAtMs: number
  readonly attributes: ReadonlyMap<string, string>
}

/** An agent that was asked into a room; not yet one that is there. */
export interface AgentDispatch {
  readonly id: string
  readonly agentName: string
}

/** LiveKit answered, with an error; the code is Twirp's, where it gave one. */
export class LiveKitRefused extends Data.TaggedClass("LiveKitRefused")<{
  readonly status: number
  readonly code: string | undefined
}> {}

/** No byte of the request left this process, for certain. */
export class LiveKitNotReached extends Data.TaggedClass("LiveKitNotReached")<{ readonly reason: string }> {}

/** The request was, or may have been, sent, and no answer came. */
export class LiveKitSilent extends Data.TaggedClass("LiveKitSilent")<{ readonly reason: string }> {}

export type LiveKitError = LiveKitRefused | LiveKitNotReached | LiveKitSilent

// No code of Twirp's has a space.
const malformedBody = "malformed body"

/** An error and its causes, the outermost first. */
const causesOf = (error: unknown): ReadonlyArray<object> => {
  const causes: Array<object> = []
  for (let cause = error; Predicate.isObject(cause) && causes.length < 6; ) {
    causes.push(cause)
    if (cause instanceof AggregateError && cause.errors.length > 0) cause = cause.errors[0]
    else cause = Predicate.hasProperty(cause, "cause") ? cause.cause : undefined
  }
  return causes
}

const textOf = (cause: object, name: string): string =>
  Predicate.hasProperty(cause, name) && Predicate.isString(cause[name]) ? cause[name] : ""

// What can only go wrong before the first byte of a request. An alert is the other side's, and may come later.
const handshakeFailed = (code: string) =>
  /CERT|ALTNAME|UNABLE_TO_|HOSTNAME_MISMATCH|WRONG_VERSION_NUMBER|UNSUPPORTED_PROTOCOL/.test(code) &&
  !code.includes("_ALERT_")

// Deno's errors have no codes, only the words of its HTTP client.
const connectReason = (message: string): string => {
  if (message.includes("Connection refused")) return "ECONNREFUSED"
  if (message.includes("dns error")) return "ENOTFOUND"
  if (message.includes("unreachable")) return "EHOSTUNREACH"
  return /certificate|corrupt message|handshake/.test(message) ? "TLS" : "not connected"
}

const unsentReason = (cause: object): string | undefined => {
  const code = textOf(cause, "code")
  const message = textOf(cause, "message")
  // The system call tells more than its error: EHOSTUNREACH of a `read` comes after the request has left.
  if (["connect", "getaddrinfo"].includes(textOf(cause, "syscall"))) return code || "not connected"
  if (code === "UND_ERR_CONNECT_TIMEOUT" || handshakeFailed(code)) return code
  if (message.includes("client error (Connect)")) return connectReason(message)
  if (message === "bad port" || /^Fetch failed: Requests to port \d+ are blocked/.test(message)) {
    return "blocked port"
  }
  return undefined
}

/**
 * Whether a 2xx came with a body that is not the message asked for: not JSON, another JSON, or cut off. Of
 * other answers the SDK never lets such an error through.
 */
const isUnreadable = (error: unknown): boolean =>
  error instanceof SyntaxError ||
  (error instanceof Error && error.message.startsWith("cannot decode ")) ||
  (error instanceof TypeError && /^(?:terminated$|error reading a body from connection)/.test(error.message))

const silence = (withinMs: number) =>
  new LiveKitSilent({ reason: `no answer within ${Math.round(withinMs)} ms` })

// Only codes are passed on: a message can contain the token, the URL or a piece of the answer.
const classify = (error: unknown, withinMs: number): LiveKitError => {
  if (error instanceof ServerError) {
    const code = typeof error.code === "string" && /^[a-z_]{1,40}$/.test(error.code) ? error.code : undefined
    return new LiveKitRefused({ status: error.status, code })
  }
  if (isUnreadable(error)) return new LiveKitRefused({ status: 200, code: malformedBody })
  const causes = causesOf(error)
  const unsent = causes.map(unsentReason).find(Predicate.isNotUndefined)
  if (unsent !== undefined) return new LiveKitNotReached({ reason: unsent })
  if (causes.some((cause) => ["TimeoutError", "AbortError"].includes(textOf(cause, "name")))) {
    return silence(withinMs)
  }
  const code = causes.map((cause) => textOf(cause, "code")).find((found) => /^[A-Z][A-Z0-9_]+$/.test(found))
  return new LiveKitSilent({ reason: code ?? "connection lost" })
}

// The SDK makes milliseconds of its seconds, and Node throws where those are not whole: 1.001 s is 1000.99… ms.
const toSeconds = (withinMs: number): number => {
  const ms = Math.ceil(withinMs)
  const exact = [ms, ms + 1, ms + 2, ms + 3].find((some) => Number.isInteger((some / 1000) * 1000))
  return (exact ?? ms) / 1000
}

const call = <A>(
  withinMs: number,
  send: (options: ClientOptions) => Promise<A>,
): Effect.Effect<A, LiveKitError> => {
  if (!(withinMs > 0)) return Effect.fail(new LiveKitNotReached({ reason: "no time left" }))
  return Effect.tryPromise({
    // With failover the SDK repeats a call in another region, after errors that leave open whether it was done.
    try: () => send({ requestTimeout: toSeconds(withinMs), failover: false }),
    catch: (error) => classify(error, withinMs),
  }).pipe(
    // The SDK's own limit is what aborts the request; this one holds whatever it does.
    Effect.timeoutOrElse({ duration: withinMs, orElse: () => Effect.fail(silence(withinMs)) }),
  )
}

// By way of the message: the package that exports the enum is no dependency of ours.
const kindField = ParticipantInfo.fields.findJsonName("kind")
const kindName = (kind: number): string =>
  (kindField?.kind === "enum" ? kindField.T.findNumber(kind)?.name : undefined) ?? String(kind)

const toParticipant = (info: ParticipantInfo): RoomParticipant => ({
  sid: info.sid,
  identity: info.identity,
  kind: kindName(info.kind),
  joinedAtMs: Number(info.joinedAtMs) || Number(info.joinedAt) * 1000,
  attributes: new Map(Object.entries(info.attributes)),
})

// Without path and user: the SDK drops the one, and fetch refuses the other.
const toHost = (raw: string): Option.Option<string> =>
  URL.canParse(raw) ? Option.some(new URL(raw).origin.replace(/^ws/, "http")) : Option.none()

interface LiveKitShape {
  /** Whether there is a LiveKit to ask; without one every call fails with `LiveKitNotReached`. */
  readonly configured: boolean
  /** Empty for a room that does not exist. Names those whom a crash of LiveKit took away, too. */
  readonly participants: (
    room: string,
    withinMs: number,
  ) => Effect.Effect<ReadonlyArray<RoomParticipant>, LiveKitError>
  /**
   * Which agents were asked into the room, without LiveKit's own dispatch, whose agent name is empty. Refused as
   * `unavailable` where no server runs that room.
   */
  readonly dispatches: (
    room: string,
    withinMs: number,
  ) => Effect.Effect<ReadonlyArray<AgentDispatch>, LiveKitError>
  /**
   * Asks an agent into a room, once. Says yes although no such agent runs, and makes the room again if it is
   * gone. The status line alone decides: with a body that cannot be read the id is empty.
   */
  readonly createDispatch: (
    room: string,
    agentName: string,
    metadata: string,
    withinMs: number,
  ) => Effect.Effect<AgentDispatch, LiveKitError>
}

const notConfigured: LiveKitShape = {
  configured: false,
  participants: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  dispatches: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  createDispatch: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
}

const clientOf = (host: string, key: string, secret: Redacted.Redacted): LiveKitShape => {
  // A client's time limit is for all its calls, so there is one a call; it holds no connection.
  const rooms = (options: ClientOptions) => new RoomServiceClient(host, key, Redacted.value(secret), options)
  const agents = (options: ClientOptions) =>
    new AgentDispatchClient(host, key, Redacted.value(secret), options)
  return {
    configured: true,
    participants: (room, withinMs) =>
      Effect.map(
        call(withinMs, (options) => rooms(options).listParticipants(room)),
        (found) => found.map(toParticipant),
      ),
    dispatches: (room, withinMs) =>
      Effect.map(
        call(withinMs, (options) => agents(options).listDispatch(room)),
        (found) =>
          found
            .filter(({ agentName }) => agentName !== "")
            .map(({ agentName, id }): AgentDispatch => ({ id, agentName })),
      ),
    createDispatch: (room, agentName, metadata, withinMs) =>
      call(withinMs, (options) => agents(options).createDispatch(room, agentName, { metadata })).pipe(
        Effect.map(({ id }): AgentDispatch => ({ id, agentName })),
        Effect.catchTag("LiveKitRefused", (refused) =>
          refused.code === malformedBody ? Effect.succeed({ id: "", agentName }) : Effect.fail(refused),
        ),
      ),
  }
}

export class LiveKit extends Context.Service<LiveKit, LiveKitShape>()("switchhook/livekit/LiveKit") {
  /** The LiveKit of `LIVEKIT_URL`, asked with the first of our keys. */
  static readonly layer: Layer.Layer<LiveKit, never, Settings> = Layer.effect(
    LiveKit,
    Effect.map(Settings, ({ apiKeys, livekitUrl }) => {
      const host = Option.flatMap(livekitUrl, toHost)
      const [first] = apiKeys
      return LiveKit.of(
        first === undefined || Option.isNone(host)
          ? notConfigured
          : clientOf(host.value, first.key, first.secret),
      )
    }),
  )
}
