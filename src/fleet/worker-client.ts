// HTTP to a worker: its health, and the POST that gives it a call. Knows to the byte whether anything was sent.

import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { Context, Data, Effect, Layer, Option, Redacted, Schema, Stream } from "effect"
import { HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { monotonicMs, sleepAwake, theClock } from "../clock.ts"
import { Settings } from "../config.ts"
import {
  codeOf,
  Gate,
  gatedConnections,
  gateOption,
  type NothingSentReason,
  notConnected,
  unsentReason,
} from "../sending/gate.ts"
import type { HealthReport } from "./worker.ts"

/** What a worker is told of a call; exactly the body of the relay. */
export interface DispatchRequest {
  readonly room_name: string
  readonly caller_number: string
  readonly dialed_number: string
  readonly call_id: string
}

/** What a worker answered. A body of more than 64 KiB is replaced by `{"ok":true}`; a cut one is what came. */
export interface WorkerAnswer {
  readonly status: number
  readonly contentType: string | undefined
  readonly body: Uint8Array
}

export interface DispatchOptions {
  readonly idempotencyKey: string
  /** For everything, in ms; 1 s of it for connecting. */
  readonly budgetMs: number
  /** Asked once connected, before the first byte: false, and nothing is sent. */
  readonly mayStart: () => boolean
  /** The call, for the failpoints. */
  readonly about?: string
}

/** No byte of the request left this process, for certain: whoever asks may ask another worker. */
export class NothingSent extends Data.TaggedClass("NothingSent")<{ readonly reason: NothingSentReason }> {}

/** The request, or a part of it, may have reached the worker, and no status line came back. */
export class NoAnswer extends Data.TaggedClass("NoAnswer")<{ readonly reason: string }> {}

/** A health answer that is none. */
export class ProbeFailed extends Data.TaggedClass("ProbeFailed")<{
  readonly why: string
  readonly refused: boolean
}> {}

const probeMs = 500
const bodyLimit = 64 * 1024
const okBody = new TextEncoder().encode('{"ok":true}')

interface BodyReader {
  /** Reads to the end, or until there is too much or the connection breaks. */
  readonly read: Effect.Effect<void>
  /** What came so far; `undefined` where it was more than 64 KiB. */
  readonly soFar: () => Uint8Array | undefined
}

const bodyReader = (response: HttpClientResponse.HttpClientResponse): BodyReader => {
  const chunks: Array<Uint8Array> = []
  let size = 0
  return {
    read: response.stream.pipe(
      Stream.runForEachWhile((chunk) =>
        Effect.sync(() => {
          size += chunk.length
          if (size <= bodyLimit) chunks.push(chunk)
          return size <= bodyLimit
        }),
      ),
      Effect.ignore,
    ),
    // Copied once more: a small buffer is a piece of a large one that many share, and keeping it keeps all of that.
    soFar: () => (size <= bodyLimit ? new Uint8Array(Buffer.concat(chunks)) : undefined),
  }
}

const Health = Schema.fromJsonString(
  Schema.Struct({
    status: Schema.optionalKey(Schema.Unknown),
    active_calls: Schema.optionalKey(Schema.Unknown),
    max_calls: Schema.optionalKey(Schema.Unknown),
    idempotent: Schema.optionalKey(Schema.Unknown),
  }),
)
const decodeHealth = Schema.decodeUnknownOption(Health)

const count = (value: unknown) =>
  typeof value === "number" && value >= 0 && Number.isFinite(value) ? value : undefined

const toReport = (body: string): HealthReport => {
  const health = Option.getOrElse(decodeHealth(body), () => ({}) as typeof Health.Type)
  return {
    draining: health.status === "draining",
    activeCalls: count(health.active_calls),
    maxCalls: count(health.max_calls),
    idempotent: health.idempotent === true,
  }
}

const readReport = (response: HttpClientResponse.HttpClientResponse) => {
  const { read, soFar } = bodyReader(response)
  return Effect.map(read, () => toReport(Buffer.from(soFar() ?? okBody).toString("utf8")))
}

export class WorkerClient extends Context.Service<
  WorkerClient,
  {
    /** `GET {url}/health`, 500 ms for the whole answer. */
    readonly health: (url: string) => Effect.Effect<HealthReport, ProbeFailed>
    /** `POST {url}/livekit/dispatch`. A redirect is an answer like any other and is not followed. */
    readonly dispatch: (
      url: string,
      request: DispatchRequest,
      options: DispatchOptions,
    ) => Effect.Effect<WorkerAnswer, NothingSent | NoAnswer>
  }
>()("switchhook/fleet/WorkerClient") {
  static readonly layerNoDeps = Layer.effect(
    WorkerClient,
    Effect.gen(function* () {
      const { coreSecret } = yield* Settings
      const client = yield* HttpClient.HttpClient

      const health = (url: string) =>
        client.get(`${url}/health`).pipe(
          Effect.flatMap((response) =>
            Effect.flatMap(readReport(response), (report) =>
              response.status >= 200 && response.status < 300
                ? Effect.succeed(report)
                : Effect.fail(new ProbeFailed({ why: `answers ${response.status}`, refused: false })),
            ),
          ),
          Effect.catchTag("HttpClientError", (error) => {
            const code = codeOf(error)
            return Effect.fail(
              new ProbeFailed({ why: code || "no answer", refused: code === "ECONNREFUSED" }),
            )
          }),
          Effect.raceFirst(
            Effect.andThen(
              sleepAwake(probeMs),
              Effect.fail(new ProbeFailed({ why: `no answer within ${probeMs} ms`, refused: false })),
            ),
          ),
          Effect.provideService(HttpClient.TracerDisabledWhen, () => true),
        )

      const dispatch = Effect.fnUntraced(
        function* (
          url: string,
          request: DispatchRequest,
          options: DispatchOptions,
        ): Effect.fn.Return<WorkerAnswer, NothingSent | NoAnswer> {
          const clock = yield* theClock
          const startedAt = monotonicMs(clock)
          const gate = new Gate(options.mayStart, options.about)
          const post = HttpClientRequest.post(`${url}/livekit/dispatch`).pipe(
            HttpClientRequest.setHeaders({
              "x-cxb-core-secret": Redacted.value(coreSecret),
              "idempotency-key": options.idempotencyKey,
            }),
            HttpClientRequest.bodyText(JSON.stringify(request), "application/json"),
          )
          const answer = client.execute(post).pipe(
            Effect.provideService(NodeHttpClient.UndiciOptions, { [gateOption]: gate } as object),
            Effect.mapError((error) => {
              const code = codeOf(error)
              if (gate.state === "passed") return new NoAnswer({ reason: code || "connection lost" })
              if (gate.state === "closed") return new NothingSent({ reason: "lease lapsed" })
              gate.state = "closed"
              return new NothingSent({ reason: unsentReason(code) })
            }),
          )
          const unconnected = Effect.andThen(
            notConnected(gate, options.budgetMs),
            Effect.fail(new NothingSent({ reason: "connect timeout" })),
          )
          const tooLate = Effect.sleep(options.budgetMs).pipe(
            Effect.andThen(
              Effect.suspend((): Effect.Effect<never, NothingSent | NoAnswer> => {
                if (gate.state === "passed") {
                  const reason = `no answer within ${Math.round(options.budgetMs)} ms`
                  return Effect.fail(new NoAnswer({ reason }))
                }
                gate.state = "closed"
                return Effect.fail(new NothingSent({ reason: "connect timeout" }))
              }),
            ),
          )
          const response = yield* Effect.raceAllFirst([answer, unconnected, tooLate])
          // From here on the outcome stands, whatever becomes of the body.
          const { read, soFar } = bodyReader(response)
          yield* Effect.timeoutOption(read, Math.max(1, options.budgetMs - (monotonicMs(clock) - startedAt)))
          const body = soFar()
          return {
            status: response.status,
            contentType: body === undefined ? "application/json" : response.headers["content-type"],
            body: body ?? okBody,
          }
        },
        Effect.provideService(HttpClient.TracerDisabledWhen, () => true),
      )

      return WorkerClient.of({ health, dispatch })
    }),
  )

  static readonly layer = Layer.provide(
    WorkerClient.layerNoDeps,
    NodeHttpClient.layerUndiciNoDispatcher.pipe(
      Layer.provide(Layer.effect(NodeHttpClient.Dispatcher, gatedConnections)),
    ),
  )
}
