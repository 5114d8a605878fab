// `npm run bench -- --growth`: whether a call costs more once the ledger is large, or while old calls are deleted from
// it, and what its statements then do.

import { statfs } from "node:fs/promises"
import { tmpdir, totalmem } from "node:os"
import { startCluster } from "../support/cluster.ts"
import type { Contender } from "./contenders.ts"
import { coreSecret, usualDids } from "./events.ts"
import { fill, largeDids } from "./fill.ts"
import { type Effort, measure, type Round } from "./measure.ts"
import { type Peers, startPeers } from "./peers.ts"
import { plansOf } from "./plans.ts"
import { startPruning } from "./pruning.ts"
import { type Result, resultOf } from "./results.ts"
import { makeDataDir, makeMigrated, stagedPostgres } from "./stage.ts"
import { workTable } from "./table.ts"
import { works } from "./works.ts"

interface Growth {
  readonly calls: number
  readonly contenders: ReadonlyArray<Contender>
  readonly effort: Effort
  readonly before: ReadonlyArray<string>
  /** Whether the large ledger is compared with itself while old calls are deleted, instead of with an empty one. */
  readonly prune: boolean
}

// A service that has just started reads all numbers, which takes ten seconds where there are so many and it is busy.
const warmSeconds = 15

// Nobody joins the callers of a round, so the watch would look after all of them in the next one.
const answeredSql = "UPDATE calls SET watch_at = NULL WHERE watch_at IS NOT NULL"

// A call's rows and their index entries, and as much again while they are written.
const bytesPerCall = 6_000

/** As many calls as asked for, or as the disk has room for. */
const affordable = async (calls: number): Promise<number> => {
  const { bavail, bsize } = await statfs(tmpdir())
  const most = Math.floor((bavail * bsize * 0.8) / bytesPerCall)
  if (most >= calls) return calls
  console.log(`The disk of ${tmpdir()} has room for ${most.toLocaleString("en-US")} calls only.`)
  return most
}

const work = works.find(({ name }) => name === "c")!

interface Ledger {
  readonly name: string
  readonly title: string
  readonly url: string
  /** How many numbers it has, all of which are dialed. */
  readonly dids: number
  /** Whether old calls are deleted meanwhile. */
  readonly prune?: true
  /** Whether a checkpoint ends right before each round: every page that is then written first is written as a whole. */
  readonly checkpoint?: true
}

const roundOn = async (
  { before, effort: usual }: Growth,
  peers: Peers,
  contender: Contender,
  ledger: Ledger,
  round: number,
): Promise<Round | Error> => {
  const database = await stagedPostgres(ledger.url, await makeDataDir())
  // The most that it does comes with so many anyway.
  const effort = { ...usual, warmSeconds, connections: [64], saturateSeconds: 3 * usual.saturateSeconds }
  let undone: ReadonlyArray<string> = []
  try {
    await database.look((query) => query(answeredSql))
    if (ledger.checkpoint) await database.look((query) => query("CHECKPOINT"))
    const pruning = ledger.prune ? await startPruning(database) : undefined
    const named = { ...work, name: ledger.name, dids: ledger.dids }
    const measured = await measure(
      { contender, work: named, peers, before, effort, round },
      database,
    ).finally(async () => {
      undone = (await pruning?.stop()) ?? []
    })
    return { ...measured, faults: [...measured.faults, ...undone] }
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  } finally {
    await database.drop()
  }
}

const measureOn = async (
  growth: Growth,
  peers: Peers,
  contender: Contender,
  ledgers: ReadonlyArray<Ledger>,
) => {
  const ended = new Map<string, Array<Round | Error>>(ledgers.map(({ name }) => [name, []]))
  for (let round = 0; round < growth.effort.rounds; round++)
    // There and back, so that none always follows the same one.
    for (const ledger of round % 2 === 0 ? ledgers : ledgers.toReversed())
      ended.get(ledger.name)?.push(await roundOn(growth, peers, contender, ledger, round))
  return ledgers.map(({ name }) => resultOf(name, contender.name, ended.get(name) ?? []))
}

const tell = (results: ReadonlyArray<Result>, ledgers: ReadonlyArray<Ledger>, { name }: Contender) => {
  for (const ledger of ledgers) console.log(`\n${workTable(results, { ...work, ...ledger })}`)
  results.slice(1).forEach((result, place) => {
    const before = results[place]
    if (before?.median === undefined || result.median === undefined) return
    const ratio = (result.median.rate / before.median.rate).toFixed(2)
    console.log(`\n${name}, ${ledgers[place + 1]?.title}: ${ratio} × with ${ledgers[place]?.title}`)
  })
}

// As whoever has so many calls would set it: room for the indexes, of which each call changes four pages anywhere, and
// time between checkpoints, which by the defaults begin every half minute at this rate.
const largeServer = () => [
  `shared_buffers=${Math.round((totalmem() * 0.4) / 2 ** 20)}MB`,
  "max_wal_size=32GB",
  "checkpoint_timeout=30min",
]

const makeLarge = async (cluster: string, calls: number): Promise<Ledger> => {
  const url = await makeMigrated(cluster, "bench_large", largeDids)
  const startedAt = performance.now()
  await fill(url, calls)
  const seconds = Math.round((performance.now() - startedAt) / 1000)
  const numbers = `${largeDids.toLocaleString("en-US")} numbers`
  console.log(`${calls.toLocaleString("en-US")} calls and ${numbers} in ${seconds} s`)
  return {
    name: "large",
    title: `${calls.toLocaleString("en-US")} calls in the ledger`,
    url,
    dids: largeDids,
  }
}

/**
 * Measures a dispatched call on an empty ledger, on a large one and, where asked for, on that one while it is pruned, in
 * turn, and prints the plans on the large one.
 */
export const measureGrowth = async (growth: Growth): Promise<ReadonlyArray<Result>> => {
  const calls = await affordable(growth.calls)
  const cluster = await startCluster(largeServer())
  const peers = await startPeers(coreSecret)
  try {
    const large = await makeLarge(cluster.url, calls)
    const empty = await makeMigrated(cluster.url, "bench_empty", usualDids)
    const none: Ledger = { name: "empty", title: "an empty ledger", url: empty, dids: usualDids }
    const pruned: Ledger = { ...large, name: "pruned", title: "old calls deleted meanwhile", prune: true }
    // Those of the second would slow down the first.
    const series: ReadonlyArray<ReadonlyArray<Ledger>> = [
      [none, large, ...(growth.prune ? [pruned] : [])],
      [
        { ...none, name: "empty-2" },
        { ...large, name: "checkpoint", title: `${large.title}, right after a checkpoint`, checkpoint: true },
      ],
    ]
    const all: Array<Result> = []
    for (const ledgers of series)
      for (const contender of growth.contenders) {
        const results = await measureOn(growth, peers, contender, ledgers)
        tell(results, ledgers, contender)
        all.push(...results)
      }
    for (const { name, plan } of await plansOf(large.url)) console.log(`\n${name}\n${plan}`)
    return all
  } finally {
    peers.stop()
    await cluster.stop()
  }
}
