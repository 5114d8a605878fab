// The load generator, a process of its own: as fast as its connections allow, or by a plan that waits for nobody.

import { Worker } from "node:worker_threads"
import { randomOf } from "../chaos/random.ts"
import { type Answer, Connection } from "./connections.ts"
import { type Prepared, prepare } from "./events.ts"
import { sharedMs } from "./pacer.ts"
import type { Kind } from "./works.ts"

interface Target {
  readonly port: number
  readonly kind: Kind
  /** Names the calls of this run. */
  readonly run: string
  /** How many numbers are dialed. */
  readonly dids: number
  readonly connections: number
  readonly seconds: number
}

/** What it can be told. `know` makes the calls that are replayed afterwards. */
export type LoadOrder =
  | ({ readonly do: "saturate"; readonly guess: number } & Target)
  | ({ readonly do: "pace"; readonly rate: number; readonly seed: number } & Target)
  | { readonly do: "know"; readonly port: number; readonly run: string; readonly count: number }

/** Milliseconds from the time at which an event was due to its answer, without what the worker took. */
export interface Latency {
  readonly p50: number
  readonly p99: number
  readonly p999: number
}

export interface LoadResult {
  readonly sent: number
  /** Distinct calls among them. */
  readonly calls: number
  /** Answered per second, while the clock ran. */
  readonly rate: number
  readonly latency: Latency
  /** How late the generator itself was, in 99 of 100 cases: a part of the latency that is not the contender's. */
  readonly lateP99: number
  /** Answers that were not as due, and how many there were of each. */
  readonly wrong: Readonly<Record<string, number>>
}

interface Known extends Prepared {
  readonly answer: string
}

let known: ReadonlyArray<Known> = []

// Whoever does not answer within this time after the last event never will.
const patienceMs = 15_000

const eventsFor = ({ dids, kind, run }: Target, count: number): ReadonlyArray<Prepared> =>
  Array.from({ length: count }, (_, n) =>
    kind === "replay" ? known[n % known.length]! : prepare(kind, run, dids),
  )

const isKnown = (event: Prepared): event is Known => "answer" in event

// Whether the JSON was written with or without spaces.
const heldMs = (body: string) => Number(/"held_us": ?(\d+)/.exec(body)?.[1] ?? 0) / 1000

const stored = (body: string) => /"held_us": ?\d+/.exec(body)?.[0].replace(" ", "") ?? ""

const isRight = (event: Prepared, { body, status }: Answer) => {
  if (status !== event.status) return false
  if (isKnown(event)) return stored(body) === event.answer
  return !event.isCall || stored(body) !== ""
}

const percentiles = (values: Float64Array): Latency => {
  const sorted = values.toSorted()
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  return { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
}

/** What comes back, event by event. */
const makeTally = (events: ReadonlyArray<Prepared>) => {
  const ownMs = new Float64Array(events.length)
  const wrong: Record<string, number> = {}
  let answered = 0
  let calls = 0
  return {
    ownMs,
    answered: () => answered,
    take: (index: number, since: number, answer: Answer) => {
      const event = events[index]!
      if (event.isCall && !isKnown(event)) calls++
      ownMs[index] = sharedMs() - since - (event.isCall && !isKnown(event) ? heldMs(answer.body) : 0)
      if (!isRight(event, answer)) {
        const what = `${answer.status} ${answer.body.slice(0, 120)}`
        wrong[what] = (wrong[what] ?? 0) + 1
      }
      answered++
    },
    result: (sent: number, rate: number, late: Float64Array): LoadResult => ({
      sent,
      calls,
      rate,
      latency: percentiles(ownMs.subarray(0, sent)),
      lateP99: percentiles(late).p99,
      wrong: answered === sent ? wrong : { ...wrong, "no answer": sent - answered },
    }),
  }
}

const openAll = (port: number, count: number) =>
  Promise.all(Array.from({ length: count }, () => Connection.open(port)))

/** Ends once the run says so, or once nobody can be expected to answer any more. */
const whenOver = async (
  connections: ReadonlyArray<Connection>,
  lastsMs: number,
  run: (over: () => void) => void,
) => {
  let timer: NodeJS.Timeout | undefined
  await new Promise<void>((over) => {
    timer = setTimeout(over, lastsMs + patienceMs)
    run(over)
  })
  clearTimeout(timer)
  for (const connection of connections) connection.close()
}

const saturate = async (order: Target & { readonly guess: number }): Promise<LoadResult> => {
  const count = Math.ceil(order.guess * order.seconds * 1.5) + order.connections
  const events = eventsFor(order, count)
  const tally = makeTally(events)
  const connections = await openAll(order.port, order.connections)
  const startedAt = sharedMs()
  const endsAt = startedAt + order.seconds * 1000
  let sent = 0
  let inTime = 0
  let countedUntil = startedAt
  await whenOver(connections, order.seconds * 1000, (over) => {
    const next = (connection: Connection) => {
      const now = sharedMs()
      if (sent < events.length && now < endsAt) {
        const index = sent++
        connection.send(events[index]!.bytes, (answer) => {
          tally.take(index, now, answer)
          next(connection)
        })
      } else if (tally.answered() === sent) over()
      // The last answers come while connections lie idle, and count for nothing.
      if (now < endsAt && sent < events.length) {
        inTime = tally.answered()
        countedUntil = now
      }
    }
    for (const connection of connections) next(connection)
  })
  return tally.result(sent, (inTime * 1000) / (countedUntil - startedAt || 1), new Float64Array(0))
}

/** Chance has callers come as they do, the same for every contender. */
const planOf = (rate: number, seconds: number, seed: number) => {
  const random = randomOf(seed, "arrivals")
  const due: Array<number> = []
  for (let at = 0; at < seconds * 1000; at += (-Math.log(1 - random.next()) * 1000) / rate) due.push(at)
  return Float64Array.from(due)
}

// Time for the thread to start.
const untilFirstMs = 200

const pace = async (
  order: Target & { readonly rate: number; readonly seed: number },
): Promise<LoadResult> => {
  const plan = planOf(order.rate, order.seconds, order.seed)
  const events = eventsFor(order, plan.length)
  const tally = makeTally(events)
  const connections = await openAll(order.port, order.connections)
  const idle = [...connections]
  const startedAt = sharedMs() + untilFirstMs
  const dueAt = plan.map((at) => startedAt + at)
  const late = new Float64Array(plan.length)
  const pacer = new Worker(new URL("./pacer.ts", import.meta.url), { workerData: { dueAt } })
  let due = 0
  let sent = 0
  await whenOver(connections, untilFirstMs + order.seconds * 1000, (over) => {
    const sendOn = (connection: Connection) => {
      const index = sent++
      connection.send(events[index]!.bytes, (answer) => {
        tally.take(index, dueAt[index]!, answer)
        if (sent < due) return sendOn(connection)
        idle.push(connection)
        if (tally.answered() === events.length) over()
      })
    }
    pacer.on("message", (now: number) => {
      due = now
      while (sent < due && idle.length > 0) {
        late[sent] = sharedMs() - dueAt[sent]!
        // In turn: one that lay idle for longer than a server's patience would be closed.
        sendOn(idle.shift()!)
      }
    })
  })
  await pacer.terminate()
  return tally.result(sent, (tally.answered() * 1000) / (sharedMs() - startedAt), late.subarray(0, sent))
}

/** Has calls dispatched, and remembers what was answered. */
const know = async ({
  count,
  port,
  run,
}: {
  readonly port: number
  readonly run: string
  readonly count: number
}) => {
  const [connection] = await openAll(port, 1)
  const found: Array<Known> = []
  const startedAt = sharedMs()
  for (let n = 0; n < count && connection !== undefined; n++) {
    const event = prepare("call", run)
    const answer = await new Promise<Answer>((resolve) => connection.send(event.bytes, resolve))
    found.push({ ...event, answer: stored(answer.body) })
  }
  connection?.close()
  known = found
  const rate = (count * 1000) / (sharedMs() - startedAt)
  return { ...makeTally([]).result(0, rate, new Float64Array(0)), calls: count }
}

const obey = (order: LoadOrder): Promise<LoadResult> => {
  switch (order.do) {
    case "saturate":
      return saturate(order)
    case "pace":
      return pace(order)
    case "know":
      return know(order)
  }
}

process.on("message", (order: LoadOrder) => {
  obey(order).then(
    (result) => process.send?.(result),
    (error) => process.send?.({ failed: String(error) }),
  )
})
process.on("disconnect", () => process.exit(0))
