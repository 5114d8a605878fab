// `npm run chaos`: plays every scenario, or those that are named, and prints what became of the calls as a table.
// Exits 1 where a call was duplicated or lost beyond what is promised, or a row is missing; a scenario that leaves the
// database alone, and in which it was silent nevertheless, is played again first.

import { parseArgs } from "node:util"
import { startCluster } from "../support/cluster.ts"
import type { Result } from "./play.ts"
import { playScenario, type Wishes } from "./players.ts"
import { scenarios } from "./scenarios.ts"
import { heading, line, told } from "./table.ts"

const usage = `npm run chaos -- [options]

  --scenario <name>   only this one; may be given several times
  --list              the scenarios
  --short             a few calls in each, four scenarios at a time: what CI runs
  --calls <n>         calls in each scenario (2000; short: 30)
  --rate <n>          calls per second of real time (15; short: 5)
  --scale <n>         how many times as fast as real time all durations pass, in LiveKit, in the service and in
                      PostgreSQL (2); 1 is as it is
  --jobs <n>          scenarios at a time (1; short: 4)
  --seed <n>          for the callers' and the faults' plans (1); what the machine makes of them differs
  --json              results as JSON, a line each

CHAOS_LOG=<file> collects what the service said in each scenario that went wrong.`

const { values } = parseArgs({
  options: {
    scenario: { type: "string", multiple: true },
    list: { type: "boolean" },
    short: { type: "boolean" },
    calls: { type: "string" },
    rate: { type: "string" },
    scale: { type: "string" },
    jobs: { type: "string" },
    seed: { type: "string" },
    json: { type: "boolean" },
    help: { type: "boolean" },
  },
})

const fail = (why: string): never => {
  console.error(why)
  process.exit(2)
}

const positive = (name: "calls" | "rate" | "scale" | "jobs" | "seed", otherwise: number): number => {
  const value = Number(values[name] ?? otherwise)
  return value > 0 ? value : fail(`--${name}: expected a number above 0, got ${JSON.stringify(values[name])}`)
}

const isWrong = ({ faults, violations }: Result) => violations.length + faults.length > 0

const mostPlays = 3

/** What became of the calls, played again where a machine that is too slow for the scale made it go wrong. */
const playFairly = async (name: string, cluster: string, wishes: Wishes): Promise<Result> => {
  for (let plays = 1; ; plays++) {
    const result = await playScenario(name, cluster, wishes)
    if (plays === mostPlays || !isWrong(result) || !result.databaseSilent) return result
    const again = `${name}: PostgreSQL was silent for a moment; played again, as it came out thus:`
    console.error([again, ...told(result)].join("\n"))
  }
}

const playAll = async (names: ReadonlyArray<string>, jobs: number, wishes: Wishes): Promise<number> => {
  const cluster = await startCluster()
  const left = [...names]
  let wrong = 0
  if (!values.json) console.log(heading)
  const playNext = async () => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) {
      const result = await playFairly(name, cluster.url, wishes)
      console.log(values.json ? JSON.stringify(result) : [line(result), ...told(result)].join("\n"))
      if (isWrong(result)) wrong++
    }
  }
  await Promise.all(Array.from({ length: jobs }, playNext)).finally(cluster.stop)
  return wrong
}

const main = async () => {
  if (values.help) return console.log(usage)
  if (values.list)
    return console.log(scenarios.map(({ name, what }) => `${name.padEnd(20)} ${what}`).join("\n"))
  const known = new Set(scenarios.map(({ name }) => name))
  const names = values.scenario ?? [...known]
  const unknown = names.find((name) => !known.has(name))
  if (unknown !== undefined) fail(`there is no scenario ${unknown}; there are ${[...known].join(", ")}`)
  const calls = positive("calls", values.short ? 30 : 2_000)
  const wrong = await playAll(names, positive("jobs", values.short ? 4 : 1), {
    calls,
    seconds: calls / positive("rate", values.short ? 5 : 15),
    scale: positive("scale", 2),
    seed: positive("seed", 1),
    // LiveKit's own is 20 s.
    departure: values.short ? 3 : 20,
  })
  if (!values.json) console.log(`\n${names.length - wrong} of ${names.length} scenarios as promised`)
  process.exit(wrong === 0 ? 0 : 1)
}

await main()
