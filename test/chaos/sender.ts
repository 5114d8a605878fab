// LiveKit's sender of webhooks: events of one room one after another, by room name; each tried five times, 1, 2, 4 and
// 8 s apart, after a connection error, a 429 or a 5xx except 501; what waits over 30 s, or behind 200 others, is dropped.

import { Agent, request } from "node:http"
import { signBody, webhookHeaders } from "../../src/commands/signing.ts"
import { apiKey, apiSecret } from "../support/service.ts"
import { sleep } from "../support/waiting.ts"

/** An event as it is sent: whose room, which bytes, and what they are about. */
export interface Outgoing {
  readonly event: string
  readonly room: string
  readonly body: Uint8Array
  readonly token: Promise<string>
  readonly madeAt: number
}

export interface SenderOptions {
  /** Where a request about this room goes now: the balancer in front of the replicas. */
  readonly route: (room: string) => string
  /** Called when an event is first tried, whenever somebody has answered, and if it is dropped undelivered. */
  readonly onFirstTry: (outgoing: Outgoing) => void
  readonly onAnswer: (outgoing: Outgoing) => void
  readonly onDropped: (outgoing: Outgoing) => void
}

interface Queue {
  readonly waiting: Array<Outgoing>
}

const pausesMs = [1_000, 2_000, 4_000, 8_000]
const maxAgeMs = 30_000
const maxDepth = 200

interface Answered {
  readonly status: number
  readonly retryAfterMs: number | undefined
}

const isRetried = ({ status }: Answered) =>
  status === 0 || status === 429 || (status >= 500 && status !== 501)

export class Sender {
  /** Requests that were sent. */
  sent = 0
  /** Requests that were answered 5xx or 429, or not at all. */
  refused = 0
  /** Answers by status; 0 is a connection that broke or was refused. */
  readonly statuses = new Map<number, number>()
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 1_000 })
  private readonly options: SenderOptions
  private queues = new Map<string, Queue>()
  private generation = 0
  private working = 0

  constructor(options: SenderOptions) {
    this.options = options
  }

  /** Queues an event for `copies` URLs at once, each with a queue of its own, as LiveKit has one for each URL. */
  emit(event: { readonly event: string; readonly room: { readonly name: string } }, copies: number) {
    const { generation } = this
    const body = new TextEncoder().encode(JSON.stringify(event))
    const token = signBody(body, apiKey, apiSecret)
    const room = event.room.name
    const outgoing = { event: event.event, room, body, token, madeAt: Date.now() }
    for (let copy = 0; copy < copies; copy++) {
      const key = `${copy} ${room}`
      const queue = this.queues.get(key)
      if (queue === undefined) {
        const made: Queue = { waiting: [outgoing] }
        this.queues.set(key, made)
        this.run(key, made, generation)
      } else if (queue.waiting.length < maxDepth) queue.waiting.push(outgoing)
      else this.options.onDropped(outgoing)
    }
  }

  /** LiveKit dies: what waits is lost, and so is what comes back of what is under way. */
  crash() {
    this.generation++
    for (const { waiting } of this.queues.values())
      for (const outgoing of waiting) this.options.onDropped(outgoing)
    this.queues = new Map()
  }

  isIdle() {
    return this.queues.size === 0 && this.working === 0
  }

  close() {
    this.agent.destroy()
  }

  private async run(key: string, queue: Queue, generation: number) {
    // The first stays in the queue while it is tried: whatever comes in now waits behind it.
    for (let first = queue.waiting[0]; first !== undefined; first = queue.waiting[0]) {
      if (generation !== this.generation) return
      if (Date.now() - first.madeAt > maxAgeMs) this.options.onDropped(first)
      else await this.deliver(first, generation)
      queue.waiting.shift()
    }
    if (generation === this.generation) this.queues.delete(key)
  }

  private async deliver(outgoing: Outgoing, generation: number) {
    this.options.onFirstTry(outgoing)
    for (const pauseMs of [...pausesMs, undefined]) {
      const answered = await this.post(outgoing)
      if (!isRetried(answered)) return
      if (pauseMs === undefined || generation !== this.generation) break
      await sleep(answered.retryAfterMs ?? pauseMs)
      if (generation !== this.generation) break
    }
    this.options.onDropped(outgoing)
  }

  private async post(outgoing: Outgoing): Promise<Answered> {
    this.sent++
    this.working++
    const answered = await this.once(outgoing).catch(() => ({ status: 0, retryAfterMs: undefined }))
    this.working--
    this.statuses.set(answered.status, (this.statuses.get(answered.status) ?? 0) + 1)
    if (answered.status !== 0) this.options.onAnswer(outgoing)
    if (isRetried(answered)) this.refused++
    return answered
  }

  private async once({ body, room, token }: Outgoing): Promise<Answered> {
    const headers = { ...webhookHeaders(await token), "Content-Length": String(body.length) }
    return new Promise((resolve, reject) => {
      const post = request(
        this.options.route(room),
        { method: "POST", agent: this.agent, headers },
        (answer) => {
          answer.resume()
          answer.on("error", reject)
          answer.on("end", () => {
            const after = answer.headers["retry-after"]
            const counts = after !== undefined && (answer.statusCode === 429 || answer.statusCode === 503)
            resolve({
              status: answer.statusCode ?? 0,
              retryAfterMs: counts ? Number(after) * 1_000 : undefined,
            })
          })
        },
      )
      post.on("error", reject)
      post.end(body)
    })
  }
}
