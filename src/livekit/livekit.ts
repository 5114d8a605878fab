// LiveKit's API: who is in a room, and an agent sent into it. Knows whether a request that failed may have arrived.

import type { Dispatcher } from "@effect/platform-node/Undici"
import { Context, Data, Effect, Layer, Option, Redacted, Schema } from "effect"
import { AgentDispatchClient, ParticipantInfo, RoomServiceClient } from "livekit-server-sdk"
import { Settings } from "../config.ts"
import { codeOf, Gate, gatedConnections, gateOption, unsentReason } from "../sending/gate.ts"

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

const TwirpError = Schema.fromJsonString(Schema.Struct({ code: Schema.String }))
const decodeError = Schema.decodeUnknownOption(TwirpError)

// Twirp's own are a word each; a proxy's page is none.
const twirpCode = /^[a-z_]{1,40}$/

const codeIn = (text: string): string | undefined => {
  const code = Option.getOrUndefined(decodeError(text))?.code
  return code !== undefined && twirpCode.test(code) ? code : undefined
}

/** Who to ask, and how long and whether still. */
interface Sending {
  readonly withinMs: number
  /** Asked once connected, before the first byte: false, and nothing is sent. */
  readonly mayStart: () => boolean
}

/** One request on its way: what is known of it when it fails. */
class Request {
  status: number | undefined
  code: string | undefined
  readonly gate: Gate
  private readonly origin: string
  private readonly connections: Dispatcher
  private readonly signal: AbortSignal

  constructor(origin: string, connections: Dispatcher, gate: Gate, signal: AbortSignal) {
    this.origin = origin
    this.connections = connections
    this.gate = gate
    this.signal = signal
  }

  /** What the SDK calls in place of its own transport. */
  readonly request = async (service: string, method: string, data: unknown, headers: object) => {
    const options = {
      origin: this.origin,
      path: `/twirp/livekit.${service}/${method}`,
      method: "POST" as const,
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify(data),
      signal: this.signal,
      [gateOption]: this.gate,
    }
    const { body, statusCode } = await this.connections.request(options)
    this.status = statusCode
    const text = await body.text()
    if (statusCode >= 200 && statusCode < 300) return JSON.parse(text)
    this.code = codeIn(text)
    throw new Error("refused")
  }
}

// Only codes are passed on: a message can contain the token, the URL or a piece of the answer.
const failureOf = (request: Request, error: unknown, withinMs: number): LiveKitError => {
  const { code, gate, status } = request
  if (status !== undefined) {
    const isGood = status >= 200 && status < 300
    return new LiveKitRefused({ status, code: isGood ? malformedBody : code })
  }
  if (gate.state === "passed") {
    const reason = error === timeIsUp ? `no answer within ${Math.round(withinMs)} ms` : codeOf(error)
    return new LiveKitSilent({ reason: reason || "connection lost" })
  }
  if (gate.state === "closed") return new LiveKitNotReached({ reason: "lease lapsed" })
  gate.state = "closed"
  return new LiveKitNotReached({
    reason: error === timeIsUp ? "connect timeout" : unsentReason(codeOf(error)),
  })
}

const timeIsUp = Symbol("time is up")

// By way of the SDK's own field: its transport repeats requests, follows redirects and prints answers, and none of
// it may happen to a request that must not be sent twice.
const sendingBy = <Client extends object>(client: Client, { request }: Request): Client => {
  Object.assign(client, { rpc: { request } })
  return client
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
    sending: Sending,
  ) => Effect.Effect<AgentDispatch, LiveKitError>
}

const notConfigured: LiveKitShape = {
  configured: false,
  participants: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  dispatches: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  createDispatch: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
}

const always = () => true

const clientOf = (
  host: string,
  key: string,
  secret: Redacted.Redacted,
  connections: Dispatcher,
): LiveKitShape => {
  const call = <A>(
    { mayStart, withinMs }: Sending,
    ask: (request: Request) => Promise<A>,
  ): Effect.Effect<A, LiveKitError> => {
    if (!(withinMs > 0)) return Effect.fail(new LiveKitNotReached({ reason: "no time left" }))
    const gate = new Gate(mayStart)
    let request: Request | undefined
    const failure = (error: unknown) =>
      request === undefined
        ? new LiveKitNotReached({ reason: "not connected" })
        : failureOf(request, error, withinMs)
    return Effect.tryPromise({
      try: (signal) => {
        request = new Request(host, connections, gate, signal)
        return ask(request)
      },
      catch: failure,
    }).pipe(
      Effect.timeoutOrElse({
        duration: withinMs,
        orElse: () => Effect.suspend(() => Effect.fail(failure(timeIsUp))),
      }),
    )
  }
  // A client is cheap and holds no connection; each request has its own.
  const rooms = (request: Request) =>
    sendingBy(new RoomServiceClient(host, key, Redacted.value(secret)), request)
  const agents = (request: Request) =>
    sendingBy(new AgentDispatchClient(host, key, Redacted.value(secret)), request)
  return {
    configured: true,
    participants: (room, withinMs) =>
      Effect.map(
        call({ withinMs, mayStart: always }, (request) => rooms(request).listParticipants(room)),
        (found) => found.map(toParticipant),
      ),
    dispatches: (room, withinMs) =>
      Effect.map(
        call({ withinMs, mayStart: always }, (request) => agents(request).listDispatch(room)),
        (found) =>
          found
            .filter(({ agentName }) => agentName !== "")
            .map(({ agentName, id }): AgentDispatch => ({ id, agentName })),
      ),
    createDispatch: (room, agentName, metadata, sending) =>
      call(sending, (request) => agents(request).createDispatch(room, agentName, { metadata })).pipe(
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
    Effect.gen(function* () {
      const { apiKeys, livekitUrl } = yield* Settings
      const connections = yield* gatedConnections
      const host = Option.flatMap(livekitUrl, toHost)
      const [first] = apiKeys
      return LiveKit.of(
        first === undefined || Option.isNone(host)
          ? notConfigured
          : clientOf(host.value, first.key, first.secret, connections),
      )
    }),
  )
}
