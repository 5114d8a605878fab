// One HTTP request to whoever is there, and in a word why nobody answered; no redirect is followed.

import { Agent } from "@effect/platform-node/Undici"
import { Data, Effect } from "effect"
import { codeOf, unsentReason } from "../sending/gate.ts"

export interface Question {
  readonly method: "GET" | "OPTIONS" | "POST"
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  readonly withinMs: number
}

export interface Reply {
  readonly status: number
  /** Where a redirect leads; empty where it is none. */
  readonly location: string
  readonly body: string
  readonly tookMs: number
}

/** Nobody answered; the reason names no secret. */
export class NoReply extends Data.TaggedClass("NoReply")<{ readonly reason: string }> {}

const connectMs = 3_000

const reasonOf = (error: unknown): string => {
  const code = codeOf(error)
  const reason = unsentReason(code)
  if (reason === "tls" || code.startsWith("UNABLE_TO_")) return `its certificate is not accepted (${code})`
  return reason === "not connected" ? `the connection broke${code === "" ? "" : ` (${code})`}` : reason
}

const send = async (agent: Agent, url: URL, { body, headers, method }: Question, signal: AbortSignal) => {
  const startedAt = performance.now()
  const answer = await agent.request({
    origin: url.origin,
    path: `${url.pathname}${url.search}`,
    method,
    headers: { ...headers },
    body: body ?? null,
    signal,
  })
  const tookMs = performance.now() - startedAt
  return {
    status: answer.statusCode,
    location: String(answer.headers["location"] ?? ""),
    body: await answer.body.text(),
    tookMs,
  }
}

/** Asks once, on a connection of its own. */
export const ask = (url: URL, question: Question): Effect.Effect<Reply, NoReply> =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Agent({ connect: { timeout: connectMs } })),
    (agent) =>
      Effect.tryPromise({
        try: (signal) => send(agent, url, question, signal),
        catch: (error) => new NoReply({ reason: reasonOf(error) }),
      }).pipe(
        Effect.timeoutOrElse({
          duration: question.withinMs,
          orElse: () =>
            Effect.fail(new NoReply({ reason: `no answer within ${question.withinMs / 1000} s` })),
        }),
      ),
    (agent) => Effect.promise(() => agent.destroy().catch(() => {})),
  )

export const isRedirect = ({ status }: Pick<Reply, "status">): boolean => status >= 300 && status < 400

/** Whether it is this machine: nothing that is sent there can be heard by others. */
export const isLoopback = ({ hostname }: URL): boolean =>
  hostname === "localhost" || hostname === "[::1]" || /^127(?:\.\d+){3}$/.test(hostname)
