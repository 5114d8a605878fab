// One scenario, played: a process of its own on the fast clock, which prints what became of the calls as JSON.

import { parseArgs } from "node:util"
import { clockScale, realMs } from "../support/fast-clock.ts"
import { sleep } from "../support/waiting.ts"
import { randomOf } from "./random.ts"
import { type Scenario, scenarios } from "./scenarios.ts"
import { dids, Stage } from "./stage.ts"
import { callViolations, rowViolations, type Violation, worstLatency } from "./verdict.ts"
import { type CallPlan, longestRingMs } from "./world.ts"

/** What became of the calls of one scenario. */
export interface Result {
  readonly scenario: string
  readonly sent: number
  readonly calls: number
  readonly dispatched: number
  readonly answered: number
  readonly rescued: number
  readonly refused: number
  readonly duplicated: number
  readonly lost: number
  readonly rowsMissing: number
  /** In real ms, whatever the scale. */
  readonly worstMs: number
  readonly deaths: number
  /** A replica took the database for away, which the scenario leaves alone: then two may claim one call. */
  readonly databaseSilent: boolean
  readonly tookS: number
  readonly statuses: Readonly<Record<string, number>>
  readonly violations: ReadonlyArray<Violation>
  /** Anything else that is wrong: a process that did not end as asked, a failure that nobody has foreseen. */
  readonly faults: ReadonlyArray<string>
}

const { values } = parseArgs({
  options: {
    scenario: { type: "string" },
    calls: { type: "string" },
    seconds: { type: "string" },
    seed: { type: "string" },
    cluster: { type: "string" },
    departure: { type: "string" },
  },
})

const planOf = (scenario: Scenario, index: number, seed: number): CallPlan => {
  const random = randomOf(seed, `call ${index}`)
  const toAgent = random.chance(scenario.agents ?? 0)
  return {
    dialed: toAgent ? dids.agent : dids.fleet,
    patienceMs: random.chance(0.15) ? random.between(200, 20_000) : longestRingMs,
    talkMs: random.between(500, 6_000),
    // Most senders have one URL, some several.
    copies: random.pick([1, 1, 1, 1, 2, 2, 3, 3, 4, 5]),
  }
}

const arrivals = async (stage: Stage, scenario: Scenario, calls: number, seed: number, overMs: number) => {
  const begunAt = Date.now()
  for (let index = 0; index < calls; index++) {
    const due = begunAt + (overMs * index) / calls
    await sleep(Math.max(0, due - Date.now()))
    stage.world.arrive(planOf(scenario, index, seed))
  }
  stage.over = true
}

// The watch looks at rooms each 15 s, first when they are 30 s old.
const settlesWithinMs = 150_000

const settled = async (stage: Stage): Promise<ReadonlyArray<Violation>> => {
  while (!stage.world.calls.every(({ finished }) => finished) || !stage.sender.isIdle()) await sleep(200)
  const deadline = Date.now() + settlesWithinMs
  while (true) {
    const wrong = await rowViolations(stage.world.calls, stage.database)
    if (wrong.length === 0 || Date.now() > deadline) return wrong
    await sleep(500)
  }
}

const unforeseen =
  /"message":"(?:Unexpected failure|Outcome refused by the database|A kept record was refused)"/

const faultsOf = (stage: Stage): ReadonlyArray<string> => [
  ...(stage.badExits === 0 ? [] : [`${stage.badExits} processes did not end with 0`]),
  ...stage.replicas.flatMap(({ name, printed }) =>
    printed
      .split("\n")
      .filter((line) => unforeseen.test(line))
      .slice(0, 5)
      .map((line) => `${name}: ${line.slice(0, 300)}`),
  ),
]

const play = async (scenario: Scenario): Promise<Result> => {
  const seed = Number(values.seed ?? 1)
  const calls = Number(values.calls ?? 100)
  const overMs = Number(values.seconds ?? 10) * 1_000 * clockScale
  const startedAt = realMs()
  const stage = await Stage.set(scenario, {
    cluster: values.cluster ?? "",
    seed,
    departureMs: Number(values.departure ?? 20) * 1_000,
  })
  const faults = scenario.faults?.(stage)
  await arrivals(stage, scenario, calls, seed, overMs)
  await faults
  const rows = await settled(stage)
  const patientMs = scenario.patientMs ?? longestRingMs
  const violations = [...callViolations(stage.world.calls, patientMs), ...rows]
  for (const replica of stage.replicas) if ((await replica.stop()) !== 0) stage.badExits++
  const count = (what: Violation["what"]) => violations.filter((one) => one.what === what).length
  const result: Result = {
    scenario: scenario.name,
    sent: stage.sender.sent,
    calls,
    dispatched: stage.world.calls.filter(({ handovers }) => handovers.length > 0).length,
    answered: stage.world.calls.filter(({ answeredAt }) => answeredAt !== undefined).length,
    rescued: stage.world.calls.filter(({ handovers }) => handovers.length > 1).length,
    refused: stage.sender.refused,
    duplicated: count("duplicated"),
    lost: count("lost"),
    rowsMissing: count("row missing"),
    worstMs: Math.round(worstLatency(stage.world.calls) / clockScale),
    deaths: stage.replicas.reduce((sum, { deaths }) => sum + deaths, 0),
    databaseSilent:
      scenario.sticky !== true &&
      stage.replicas.some(({ printed }) => printed.includes('"message":"Database not usable')),
    tookS: Math.round((realMs() - startedAt) / 1000),
    statuses: Object.fromEntries(stage.sender.statuses),
    violations: violations.slice(0, 20),
    faults: faultsOf(stage),
  }
  if (violations.length + result.faults.length > 0 || process.env["CHAOS_LOG_LEVEL"] !== undefined)
    for (const { printed } of stage.replicas) process.stderr.write(printed)
  await stage.strike()
  return result
}

const scenario = scenarios.find(({ name }) => name === values.scenario)
if (scenario === undefined) throw new Error(`there is no scenario ${values.scenario}`)
process.stdout.write(`${JSON.stringify(await play(scenario))}\n`, () => process.exit(0))
