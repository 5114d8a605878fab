// `npm run bench`: measures the service beside a hand-written handler and what most teams would write, and prints how
// they compare. Exits 1 where one of them did not do its work.

import { execFileSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { cpus, loadavg } from "node:os"
import { parseArgs } from "node:util"
import { root } from "../support/processes.ts"
import { chart } from "./chart.ts"
import { type Contender, contenders, whyNot } from "./contenders.ts"
import { coreSecret } from "./events.ts"
import { measureGrowth } from "./growth.ts"
import { type Effort, effortAt, measure, type Round } from "./measure.ts"
import { type Peers, startPeers } from "./peers.ts"
import { type Pinning, pin } from "./processor.ts"
import { type Result, resultOf } from "./results.ts"
import { type Stage, startStage } from "./stage.ts"
import { ratioTable, workTable } from "./table.ts"
import { type Work, works } from "./works.ts"

const usage = `npm run bench -- [options]

  --quick                 a first look within two minutes: one round, short, without c0
  --rounds <n>            rounds of every contender at every work, in turn (5); medians count
  --only <names>          only these works, like a,c
${works.map(({ name, title }) => `                            ${name.padEnd(3)} ${title}`).join("\n")}
  --contenders <names>    only these of bare, express, fastapi, node, deno
  --seconds <n>           of each measurement (3)
  --json <file>           all numbers, of every round too
  --svg <file>            a chart
  --python <command>      with the packages of test/bench/contenders/requirements.txt (python3)
  --growth                work c with an empty ledger and with a large one, and the plans of its statements
  --prune                 with --growth: the large ledger with \`npm run prune\` beside, too
  --calls-in-ledger <n>   how large (10000000; fewer where the disk is short, which is said)

Each contender is a process of its own, with a database of its own, on a processor of its own where there is
\`taskset\`. After each round: did the worker get every call once, is every row whole, was every answer as due?`

const { values } = parseArgs({
  options: {
    quick: { type: "boolean" },
    rounds: { type: "string" },
    only: { type: "string" },
    contenders: { type: "string" },
    seconds: { type: "string" },
    json: { type: "string" },
    svg: { type: "string" },
    python: { type: "string", default: "python3" },
    growth: { type: "boolean" },
    prune: { type: "boolean" },
    "calls-in-ledger": { type: "string" },
    help: { type: "boolean" },
  },
})

const fail = (why: string): never => {
  console.error(why)
  process.exit(2)
}

const positive = (name: "rounds" | "seconds" | "calls-in-ledger", otherwise: number): number => {
  const value = Number(values[name] ?? otherwise)
  return value > 0 ? value : fail(`--${name}: expected a number above 0, got ${JSON.stringify(values[name])}`)
}

const chosen = <A extends { readonly name: string }>(
  option: "only" | "contenders",
  all: ReadonlyArray<A>,
): ReadonlyArray<A> => {
  const names = values[option]?.split(",") ?? all.map(({ name }) => name)
  const unknown = names.find((name) => !all.some((one) => one.name === name))
  if (unknown !== undefined)
    fail(`--${option}: there is no ${unknown}; there are ${all.map(({ name }) => name).join(", ")}`)
  return all.filter(({ name }) => names.includes(name))
}

/** Those that are named; a first look leaves out what takes too long for it. */
const chosenWorks = (): ReadonlyArray<Work> =>
  chosen("only", works).filter(({ lengthy }) => !(lengthy && values.quick && values.only === undefined))

const effortOf = (quick: boolean): Effort => {
  const seconds = positive("seconds", quick ? 0.5 : 3)
  return {
    rounds: Math.ceil(positive("rounds", quick ? 1 : 5)),
    warmSeconds: quick ? 0.4 : 2,
    // After some 10,000 all that is done once a call is compiled for good, at once, which takes up to a second.
    warmCalls: quick ? 0 : 14_000,
    saturateSeconds: seconds,
    paceSeconds: seconds,
    connections: quick ? [32] : [8, 24, 64],
  }
}

/** Those that can be measured here; of the others it is said why not. */
const available = (all: ReadonlyArray<Contender>): ReadonlyArray<Contender> =>
  all.filter((contender) => {
    const why = whyNot(contender)
    if (why !== undefined) console.log(`${contender.name}: skipped, ${why}`)
    return why === undefined
  })

interface Run {
  readonly effort: Effort
  readonly peers: Peers
  readonly stage: Stage
  readonly pinning: Pinning
}

const oneRound = async (
  { effort, peers, pinning, stage }: Run,
  work: Work,
  contender: Contender,
  round: number,
): Promise<Round | Error> => {
  const database = await stage.copy(work.database)
  try {
    return await measure({ contender, work, peers, before: pinning.before, effort, round }, database)
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  } finally {
    await database.drop()
  }
}

/** All rounds at one work, the contenders in turn. The first round finds the best number of connections. */
const atWork = async (
  run: Run,
  work: Work,
  all: ReadonlyArray<Contender>,
): Promise<ReadonlyArray<Result>> => {
  const able = all.filter(({ databases }) => databases.includes(work.database))
  const ended = new Map<string, Array<Round | Error>>(able.map(({ name }) => [name, []]))
  const best = new Map<string, number>()
  for (let round = 0; round < run.effort.rounds; round++) {
    for (const contender of able) {
      const known = best.get(contender.name)
      const connections = known === undefined ? run.effort.connections : [known]
      const effort = { ...effortAt(work, run.effort), connections }
      const result = await oneRound({ ...run, effort }, work, contender, round)
      if (!(result instanceof Error)) best.set(contender.name, result.connections)
      ended.get(contender.name)?.push(result)
    }
  }
  return able.map(({ name }) => resultOf(work.name, name, ended.get(name) ?? []))
}

const machine = (stage: Stage, pinning: Pinning) => {
  const version = (command: string) =>
    execFileSync(`${root}node_modules/.bin/${command}`, ["--version"], { encoding: "utf8" })
      .split(/[\n(]/)[0]
      ?.trim()
  return {
    processor: `${cpus().length} × ${cpus()[0]?.model.trim() ?? "unknown"}`,
    pinning: pinning.told,
    node: `Node ${version("node")}`,
    deno: version("deno")?.replace("deno", "Deno"),
    postgres: stage.version,
  }
}

const compare = async (run: Run, all: ReadonlyArray<Contender>): Promise<boolean> => {
  const wanted = chosenWorks()
  const about = machine(run.stage, run.pinning)
  const told = Object.values(about).join(", ")
  console.log(told)
  const results: Array<Result> = []
  for (const work of wanted) {
    results.push(...(await atWork(run, work, all)))
    console.log(`\n${workTable(results, work)}`)
  }
  console.log(
    `\n${ratioTable(
      results,
      wanted,
      all.map(({ name }) => name),
    )}`,
  )
  const { json, svg } = values
  if (json !== undefined) {
    const report = {
      at: new Date().toISOString(),
      machine: about,
      effort: run.effort,
      works: wanted,
      results,
    }
    writeFileSync(json, `${JSON.stringify(report, null, 2)}\n`)
  }
  if (svg !== undefined) writeFileSync(svg, chart(results, wanted, all, told))
  return results.every(({ median }) => median !== undefined)
}

const warnIfBusy = () => {
  const [load = 0] = loadavg()
  if (load > 0.5)
    console.log(`Others are at work on this machine (load ${load.toFixed(1)}): the numbers are theirs, too.`)
}

const main = async () => {
  if (values.help) return console.log(usage)
  warnIfBusy()
  const effort = effortOf(values.quick === true)
  const pinning = pin()
  const all = available(chosen("contenders", contenders(values.python)))
  if (values.growth) {
    const calls = positive("calls-in-ledger", 10_000_000)
    const wanted = values.contenders === undefined ? all.filter(({ name }) => name === "node") : all
    const grown = await measureGrowth({
      calls,
      contenders: wanted,
      effort,
      before: pinning.before,
      prune: values.prune === true,
    })
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(grown, null, 2)}\n`)
    process.exit(grown.every(({ median }) => median !== undefined) ? 0 : 1)
  }
  const needed = chosenWorks().map(({ database }) => database)
  const stage = await startStage(new Set(needed))
  const peers = await startPeers(coreSecret)
  const whole = await compare({ effort, peers, stage, pinning }, all).finally(async () => {
    peers.stop()
    await stage.stop()
  })
  process.exit(whole ? 0 : 1)
}

await main()
