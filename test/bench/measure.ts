// One round of one contender at one work, from the start of its process to the look into its database.

import { faultsOf } from "./check.ts"
import { type Contender, type Started, startContender } from "./contenders.ts"
import type { Latency, LoadResult } from "./load.ts"
import type { Peers } from "./peers.ts"
import { cpuMs, type Memory, memoryOf } from "./processor.ts"
import type { StagedDatabase } from "./stage.ts"
import type { Work } from "./works.ts"

/** How long, and how hard. */
export interface Effort {
  readonly rounds: number
  readonly warmSeconds: number
  /** After that many calls it is measured how a call is dispatched, if they are done within `mostWarmSeconds`. */
  readonly warmCalls: number
  readonly saturateSeconds: number
  readonly paceSeconds: number
  /** Numbers of connections, of which the best one counts. */
  readonly connections: ReadonlyArray<number>
}

export interface Round {
  readonly rate: number
  /** With so many connections. */
  readonly connections: number
  /** At half that rate. */
  readonly latency: Latency
  readonly lateP99: number
  /** Processor time for each event, at saturation. */
  readonly cpuMsPerEvent: number
  /** The share of its processor that it took: less than 1 where something else limited it. */
  readonly busy: number
  readonly memory: Memory
  readonly startMs: number
  /** What was wrong with the work; the numbers count for nothing then. */
  readonly faults: ReadonlyArray<string>
}

export interface Cell {
  readonly contender: Contender
  readonly work: Work
  readonly peers: Peers
  /** What stands before a contender's command. */
  readonly before: ReadonlyArray<string>
  readonly effort: Effort
  /** From 0. */
  readonly round: number
}

// Events per second that are prepared where nothing is known of a contender yet, and at least.
const firstGuess = 4_000
const leastGuess = 500
// Enough that no two deliveries of one call are under way at once.
const knownCalls = 150
const paceConnections = 64
const mostWarmSeconds = 16

interface Saturated {
  readonly result: LoadResult
  readonly connections: number
  readonly cpuMsPerEvent: number
}

const saturateWith = async (
  { effort, peers, work }: Cell,
  { pid, port }: Started,
  run: string,
  connections: number,
  guess: number,
): Promise<Saturated> => {
  const { dids, kind } = work
  const target = { port, kind, dids, run: `${run}n${connections}x`, seconds: effort.saturateSeconds }
  const before = cpuMs(pid)
  const result = await peers.load({ do: "saturate", ...target, connections, guess })
  return { result, connections, cpuMsPerEvent: (cpuMs(pid) - before) / Math.max(result.sent, 1) }
}

/** The same load, on all connections, until so many more calls are done. */
const warmOn = <Load extends { readonly run: string }>(
  warm: Load,
  { connections }: Effort,
  { rate }: LoadResult,
  calls: number,
) => ({
  ...warm,
  run: `${warm.run}x`,
  connections: connections.at(-1) ?? 16,
  seconds: Math.min(calls / rate, mostWarmSeconds),
  guess: 2 * rate,
})

const runLoads = async (cell: Cell, started: Started, run: string) => {
  const { effort, peers, round, work } = cell
  const { port } = started
  const results: Array<LoadResult> = []
  const load = async (order: Parameters<Peers["load"]>[0]) => {
    const result = await peers.load(order)
    results.push(result)
    return result
  }
  if (work.kind === "replay") await load({ do: "know", port, run: `${run}k`, count: knownCalls })
  const target = { port, kind: work.kind, dids: work.dids, connections: effort.connections[0] ?? 16 }
  const warm = { ...target, run: `${run}w`, seconds: effort.warmSeconds, guess: firstGuess }
  // Too few of a mix are calls for the code that takes them to have been compiled after so short a time.
  if (work.kind === "mix") await load({ do: "saturate", ...warm, run: `${run}v`, kind: "call" })
  const first = await load({ do: "saturate", ...warm })
  const callsLeft = work.kind === "call" && work.database === "postgres" ? effort.warmCalls - first.sent : 0
  const { rate } =
    callsLeft > 0 ? await load({ do: "saturate", ...warmOn(warm, effort, first, callsLeft) }) : first
  const guess = Math.max(rate * 1.3, leastGuess)
  const saturated: Array<Saturated> = []
  for (const connections of effort.connections) {
    const one = await saturateWith(cell, started, run, connections, guess)
    saturated.push(one)
    results.push(one.result)
  }
  const best = saturated.toSorted((a, b) => b.result.rate - a.result.rate)[0]!
  const paced = await load({
    do: "pace",
    ...target,
    run: `${run}p`,
    seconds: effort.paceSeconds,
    connections: paceConnections,
    rate: Math.max(best.result.rate / 2, 1),
    seed: round + 1,
  })
  return { best, paced, results }
}

// The embedded database takes so much longer over everything.
const embeddedFactor = 2.5

/** The effort at that work. */
export const effortAt = ({ database }: Work, effort: Effort): Effort => {
  const factor = database === "embedded" ? embeddedFactor : 1
  return {
    ...effort,
    warmSeconds: effort.warmSeconds * factor,
    saturateSeconds: effort.saturateSeconds * factor,
    paceSeconds: effort.paceSeconds * factor,
  }
}

/** Starts the contender on the database, measures it, stops it, and looks whether it did the work. */
export const measure = async (cell: Cell, database: StagedDatabase): Promise<Round> => {
  const { before, contender, peers, round, work } = cell
  const run = `${work.name}${contender.name}${round}`
  await peers.worker({ do: "begin", holdMs: work.workerMs })
  const sinceMs = Date.now()
  const started = await startContender(contender, run, {
    before,
    env: { ...database.env, CORE_FLEET: peers.workerUrl },
  })
  let printed = ""
  const measured = await runLoads(cell, started, run)
    .then((loads) => ({ ...loads, memory: memoryOf(started.pid) }))
    .finally(async () => {
      printed = await started.stop()
    })
  const { best, memory, paced, results } = measured
  const unanswered = Math.min(best.result.rate, paced.rate) === 0 ? ["nothing was answered in time"] : []
  const undone = await faultsOf(results, await peers.worker({ do: "count" }), database, sinceMs)
  const faults = [...unanswered, ...undone]
  return {
    rate: best.result.rate,
    connections: best.connections,
    latency: paced.latency,
    lateP99: paced.lateP99,
    cpuMsPerEvent: best.cpuMsPerEvent,
    busy: (best.cpuMsPerEvent * best.result.rate) / 1000,
    memory,
    startMs: started.startMs,
    faults: faults.length === 0 || printed === "" ? faults : [...faults, printed.slice(-500)],
  }
}
