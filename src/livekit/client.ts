// How LiveKit's API is asked: one request each, of which it is known, when it fails, whether it may have arrived.

import type { Dispatcher } from "@effect/platform-node/Undici"
import { Data, Effect, Option, Redacted, Schema, type Scope } from "effect"
import { Settings } from "../config.ts"
import { codeOf, Gate, gatedConnections, gateOption, notConnected, unsentReason } from "../sending/gate.ts"

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

/** The code of a refusal that is none: LiveKit said yes, in a body that cannot be read. Twirp's have no space. */
export const malformedBody = "malformed body"

const TwirpError = Schema.fromJsonString(Schema.Struct({ code: Schema.String }))
const decodeError = Schema.decodeUnknownOption(TwirpError)

// Twirp's own are a word each; a proxy's page is none.
const twirpCode = /^[a-z_]{1,40}$/

const codeIn = (text: string): string | undefined => {
  const code = Option.getOrUndefined(decodeError(text))?.code
  return code !== undefined && twirpCode.test(code) ? code : undefined
}

const dateIn = (text: string): number | undefined => {
  const ms = Date.parse(text)
  return Number.isNaN(ms) ? undefined : ms
}

/** How long to wait, and whether to ask still. */
export interface Sending {
  readonly withinMs: number
  /** Asked once connected, before the first byte: false, and nothing is sent. */
  readonly mayStart: () => boolean
  /** The call that is handed over by this, for the failpoints. */
  readonly about?: string
}

/** One request on its way: what is known of it when it fails. */
export class Request {
  status: number | undefined
  code: string | undefined
  /** LiveKit's own time, in ms, as its answer has it. */
  date: number | undefined
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
    const { body, headers: answered, statusCode } = await this.connections.request(options)
    this.status = statusCode
    this.date = dateIn(String(answered["date"]))
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
  const inTime = error !== timeIsUp
  if (inTime && gate.state === "closed") return new LiveKitNotReached({ reason: "lease lapsed" })
  gate.close()
  return new LiveKitNotReached({ reason: inTime ? unsentReason(codeOf(error)) : "connect timeout" })
}

const timeIsUp = Symbol("time is up")

// Without path and user: the SDK drops the one, and fetch refuses the other.
const toHost = (raw: string): Option.Option<string> =>
  URL.canParse(raw) ? Option.some(new URL(raw).origin.replace(/^ws/, "http")) : Option.none()

/** A client of the SDK's, by its constructor. */
type ClientClass<Client extends object> = new (host: string, key: string, secret: string) => Client

/** Asks one LiveKit with one key. */
export interface Caller {
  /** Makes one request, which `ask` sends by a client. */
  readonly call: <A>(
    sending: Sending,
    ask: (request: Request) => Promise<A>,
  ) => Effect.Effect<A, LiveKitError>
  /** A client of the SDK's for this one request. A client is cheap and holds no connection. */
  readonly client: <Client extends object>(Class: ClientClass<Client>, request: Request) => Client
}

const callerOf = (host: string, key: string, secret: Redacted.Redacted, connections: Dispatcher): Caller => ({
  call: (sending, ask) => {
    const { about, mayStart, withinMs } = sending
    if (!(withinMs > 0)) return Effect.fail(new LiveKitNotReached({ reason: "no time left" }))
    const gate = new Gate(mayStart, about)
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
      Effect.raceFirst(
        Effect.andThen(
          notConnected(gate, withinMs),
          Effect.suspend(() => Effect.fail(failure(timeIsUp))),
        ),
      ),
      Effect.timeoutOrElse({
        duration: withinMs,
        orElse: () => Effect.suspend(() => Effect.fail(failure(timeIsUp))),
      }),
    )
  },
  // By way of the SDK's own field: its transport repeats requests, follows redirects and prints answers, and none
  // of it may happen to a request that must not be sent twice.
  client: (Class, { request }) =>
    Object.assign(new Class(host, key, Redacted.value(secret)), { rpc: { request } }),
})

const always = () => true

/** A request that is worth sending whenever it is connected. */
export const within = (withinMs: number): Sending => ({ withinMs, mayStart: always })

/** The LiveKit of `LIVEKIT_URL`, asked with the first of our keys; none where the settings name none. */
export const configuredCaller: Effect.Effect<
  Option.Option<Caller>,
  never,
  Settings | Scope.Scope
> = Effect.gen(function* () {
  const { apiKeys, livekitUrl } = yield* Settings
  const connections = yield* gatedConnections
  const [first] = apiKeys
  return first === undefined
    ? Option.none()
    : Option.map(Option.flatMap(livekitUrl, toHost), (host) =>
        callerOf(host, first.key, first.secret, connections),
      )
})

/** What went wrong, in one sentence for a person; names no secret, and nothing that LiveKit wrote. */
export const whatWentWrong = (error: LiveKitError): string => {
  switch (error._tag) {
    case "LiveKitRefused":
      if (error.status === 401)
        return "LiveKit does not accept the key (401): check LIVEKIT_API_KEY, LIVEKIT_API_SECRET and the clock."
      if (error.code === malformedBody) return "LiveKit did it, but its answer cannot be read."
      return `LiveKit refused the request (${[error.status, error.code].filter(Boolean).join(" ")}).`
    case "LiveKitNotReached":
      return error.reason === "not configured"
        ? "LIVEKIT_URL is not set: it names the LiveKit to ask."
        : `LiveKit cannot be reached (${error.reason}): is LIVEKIT_URL right? Nothing was sent.`
    case "LiveKitSilent":
      return `LiveKit did not answer (${error.reason}): it may have done what it was asked to.`
  }
}
