// HTTP to a worker: its health, and the POST that gives it a call. Knows to the byte whether anything was sent.

import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { Context, Data, Effect, Layer, Option, Redacted, Schema, Stream } from "effect"
import { HttpClient, type HttpClientResponse } from "effect/http"
import { sleepAwake } from "../clock.ts"
import { Settings } from "../config.ts"
import { codeOf, gatedConnections } from "../sending/gate.ts"
import {
  type NoAnswer,
  type NothingSent,
  type PostOptions,
  post,
  type WorkerAnswer,
} from "./dispatch-post.ts"
import type { HealthReport } from "./worker.ts"

export type { WorkerAnswer } from "./dispatch-post.ts"

/** What a worker is told of a call; exactly the body of the relay. */
export interface DispatchRequest {
  readonly room_name: string
  readonly caller_number: string
  readonly dialed_number: string
  readonly call_id: string
}

export interface DispatchOptions extends PostOptions {
  readonly idempotencyKey: string
}

/** A health answer that is none. */
export class ProbeFailed extends Data.TaggedClass("ProbeFailed")<{
  readonly why: string
  readonly refused: boolean
}> {}

const probeMs = 500
const bodyLimit = 64 * 1024

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

const readReport = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    let size = 0
    return response.stream.pipe(
      Stream.runForEachWhile((chunk) =>
        Effect.sync(() => {
          size += chunk.length
          if (size <= bodyLimit) chunks.push(chunk)
          return size <= bodyLimit
        }),
      ),
      // A body that breaks off, or is too long, says nothing: the status line does.
      Effect.ignore,
      Effect.map(() => toReport(size <= bodyLimit ? Buffer.concat(chunks).toString("utf8") : "")),
    )
  })

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
      const connections = yield* NodeHttpClient.Dispatcher

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

      const secret = Redacted.value(coreSecret)
      const dispatch = (url: string, request: DispatchRequest, options: DispatchOptions) => {
        const headers = {
          "x-cxb-core-secret": secret,
          "idempotency-key": options.idempotencyKey,
          "content-type": "application/json",
        }
        const toPost = { url: new URL(`${url}/livekit/dispatch`), headers, body: JSON.stringify(request) }
        return post(connections, toPost, options)
      }

      return WorkerClient.of({ health, dispatch })
    }),
  )

  static readonly layer = Layer.provide(
    WorkerClient.layerNoDeps,
    NodeHttpClient.layerUndiciNoDispatcher.pipe(
      Layer.provideMerge(Layer.effect(NodeHttpClient.Dispatcher, gatedConnections)),
    ),
  )
}
