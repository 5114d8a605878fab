// The POST that gives a worker a call, on undici itself: there is one for each call, and it ends once.

import type { Dispatcher } from "@effect/platform-node/Undici"
import { Data, Effect, Exit } from "effect"
import {
  codeOf,
  Gate,
  gateOption,
  type NothingSentReason,
  unsentReason,
  whenNotConnected,
} from "../sending/gate.ts"

/** What a worker answered. A body of more than 64 KiB is replaced by `{"ok":true}`; a cut one is what came. */
export interface WorkerAnswer {
  readonly status: number
  readonly contentType: string | undefined
  readonly body: Uint8Array
}

/** No byte of the request left this process, for certain: whoever asks may ask another worker. */
export class NothingSent extends Data.TaggedClass("NothingSent")<{ readonly reason: NothingSentReason }> {}

/** The request, or a part of it, may have reached the worker, and no status line came back. */
export class NoAnswer extends Data.TaggedClass("NoAnswer")<{ readonly reason: string }> {}

/** What is sent, and where to. */
export interface Post {
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** How long it may take, and whether it may still be sent. */
export interface PostOptions {
  /** For everything, in ms; 1 s of it for connecting. */
  readonly budgetMs: number
  /** Asked once connected, before the first byte: false, and nothing is sent. */
  readonly mayStart: () => boolean
  /** The call, for the failpoints. */
  readonly about?: string
}

const bodyLimit = 64 * 1024
const okBody = new TextEncoder().encode('{"ok":true}')

/** An answer from its status line on. */
class Answering {
  private readonly status: number
  private readonly contentType: string | undefined
  private readonly chunks: Array<Uint8Array> = []
  private size = 0
  constructor(status: number, contentType: string | ReadonlyArray<string> | undefined) {
    this.status = status
    this.contentType = typeof contentType === "object" ? contentType.join(", ") : contentType
  }
  /** Takes one more piece of the body; false where that is too much. */
  add(chunk: Uint8Array): boolean {
    this.size += chunk.length
    if (this.size <= bodyLimit) this.chunks.push(chunk)
    return this.size <= bodyLimit
  }
  soFar(): WorkerAnswer {
    const { chunks, contentType, size, status } = this
    if (size > bodyLimit) return { status, contentType: "application/json", body: okBody }
    // Copied once more: a small buffer is a piece of a large one that many share, and keeping it keeps all of that.
    const [only] = chunks
    const body = new Uint8Array(only !== undefined && chunks.length === 1 ? only : Buffer.concat(chunks))
    return { status, contentType, body }
  }
}

type Ended = Exit.Exit<WorkerAnswer, NothingSent | NoAnswer>

/** A request on its way: what is known of it, until it has ended. The gate knows whether it was sent. */
class Posting implements Dispatcher.DispatchHandler {
  private readonly gate: Gate
  private readonly tell: (ended: Ended) => void
  private readonly stopConnecting: () => void
  private readonly budget: ReturnType<typeof setTimeout>
  private controller: Dispatcher.DispatchController | undefined
  private answer: Answering | undefined
  private over = false

  constructor(gate: Gate, budgetMs: number, tell: (ended: Ended) => void) {
    this.gate = gate
    this.tell = tell
    const timeIsUp = () => {
      this.end(`no answer within ${Math.round(budgetMs)} ms`, "connect timeout")
      this.abort()
    }
    this.budget = setTimeout(timeIsUp, budgetMs)
    this.stopConnecting = whenNotConnected(gate, budgetMs, timeIsUp)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.controller = controller
    this.stopConnecting()
  }

  onResponseStart(
    _: Dispatcher.DispatchController,
    status: number,
    headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>,
  ): void {
    // What comes before an answer, as early hints, is none.
    if (status >= 200) this.answer = new Answering(status, headers["content-type"])
  }

  onResponseData(_: Dispatcher.DispatchController, chunk: Uint8Array): void {
    if (this.answer?.add(chunk) !== false) return
    this.end()
    this.abort()
  }

  onResponseEnd(): void {
    this.end()
  }

  onResponseError(_: unknown, error: unknown): void {
    const code = codeOf(error)
    this.end(code || "connection lost", this.gate.state === "closed" ? "lease lapsed" : unsentReason(code))
  }

  /** Sends nothing more, and tells nobody. */
  giveUp(): void {
    this.finish()
    this.abort()
  }

  /** Whatever there is of an answer is the answer. Without one: why there is none, or why nothing was sent. */
  private end(unanswered = "no answer", unsent: NothingSentReason = "not connected"): void {
    if (this.over) return
    const nothingSent = this.finish()
    const ended: Ended =
      this.answer !== undefined
        ? Exit.succeed(this.answer.soFar())
        : Exit.fail(nothingSent ? new NothingSent({ reason: unsent }) : new NoAnswer({ reason: unanswered }))
    // Whoever is told may post again: not before undici is done with this one.
    queueMicrotask(() => this.tell(ended))
  }

  /** From here on nothing is sent; true where nothing was. */
  private finish(): boolean {
    this.over = true
    clearTimeout(this.budget)
    this.stopConnecting()
    return this.gate.close()
  }

  private abort(): void {
    this.controller?.abort(new Error("given up"))
  }
}

/** Posts once. With a status line it is answered, whatever becomes of the body; a redirect is not followed. */
export const post = (
  connections: Dispatcher,
  { body, headers, url }: Post,
  { about, budgetMs, mayStart }: PostOptions,
): Effect.Effect<WorkerAnswer, NothingSent | NoAnswer> =>
  Effect.callback((resume) => {
    if (!(budgetMs > 0)) return resume(Effect.fail(new NothingSent({ reason: "connect timeout" })))
    const gate = new Gate(mayStart, about)
    const posting = new Posting(gate, budgetMs, resume)
    const options = {
      origin: url.origin,
      path: url.pathname,
      method: "POST" as const,
      headers,
      body,
      // The budget bounds both.
      headersTimeout: 0,
      bodyTimeout: 0,
      [gateOption]: gate,
    }
    connections.dispatch(options, posting)
    return Effect.sync(() => posting.giveUp())
  })
