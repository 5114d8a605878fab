// `npm run chaos`: plays every scenario, or those that are named, and prints what became of the calls as a table.
// Exits 1 where a call was duplicated or lost beyond what is promised, or a row is missing.

import { parseArgs } from "node:util"
import { startCluster } from "../support/cluster.ts"
import { playScenario, type Wishes } from "./players.ts"
import { scenarios } from "./scenarios.ts"
import { heading, line, told } from "./table.ts"

const usage = `npm run chaos -- [options]

  --scenario <name>   only this one; may be given several times
  --list              the scenarios
  --calls <n>         calls in each scenario (2000)
  --rate <n>          calls per second of real time (25)
  --scale <n>         how many times as fast as real time all durations pass, in LiveKit, in the service and in
                      PostgreSQL (4); 1 is as it is
  --seed <n>          for the callers' and the faults' plans (1); what the machine makes of them differs
  --json              results as JSON, a line each`

const { values } = parseArgs({
  options: {
    scenario: { type: "string", multiple: true },
    list: { type: "boolean" },
    calls: { type: "string", default: "2000" },
    rate: { type: "string", default: "25" },
    scale: { type: "string", default: "4" },
    seed: { type: "string", default: "1" },
    json: { type: "boolean" },
    help: { type: "boolean" },
  },
})

const positive = (name: "calls" | "rate" | "scale" | "seed"): number => {
  const value = Number(values[name])
  if (value > 0) return value
  console.error(`--${name}: expected a number above 0, got ${JSON.stringify(values[name])}`)
  process.exit(2)
}

const main = async () => {
  if (values.help) return console.log(usage)
  if (values.list)
    return scenarios.forEach(({ name, what }) => void console.log(`${name.padEnd(20)} ${what}`))
  const known = new Set(scenarios.map(({ name }) => name))
  const unknown = values.scenario?.find((name) => !known.has(name))
  if (unknown !== undefined) {
    console.error(`there is no scenario ${unknown}; there are ${[...known].join(", ")}`)
    process.exit(2)
  }
  const calls = positive("calls")
  const wishes: Wishes = {
    calls,
    seconds: calls / positive("rate"),
    scale: positive("scale"),
    seed: positive("seed"),
  }
  const names = values.scenario ?? [...known]
  const cluster = await startCluster()
  let wrong = 0
  if (!values.json) console.log(heading)
  for (const name of names) {
    const result = await playScenario(name, cluster.url, wishes)
    if (values.json) console.log(JSON.stringify(result))
    else console.log([line(result), ...told(result)].join("\n"))
    if (result.violations.length + result.faults.length > 0) wrong++
  }
  await cluster.stop()
  if (!values.json)
    console.log(wrong === 0 ? "\nas promised" : `\n${wrong} of ${names.length} scenarios not as promised`)
  process.exit(wrong === 0 ? 0 : 1)
}

await main()
