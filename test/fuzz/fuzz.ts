// `npm run fuzz`: as many cases as one likes, or one of them again, on a PostgreSQL of its own.

import { parseArgs } from "node:util"
import { startCluster } from "../support/cluster.ts"
import { fuzz, mib } from "./run.ts"

const usage = `npm run fuzz -- [--cases <number>] [--seed <number>] [--path <path>]

Sends the service whatever may come: 100,000 cases, unless told otherwise, by a seed that is printed.
--seed and --path run one case again, as a failure has named it.`

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "100000" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    path: { type: "string" },
    help: { type: "boolean", default: false },
  },
})

const number = (name: string, text: string) => {
  const value = Number(text)
  if (Number.isSafeInteger(value)) return value
  console.error(`--${name}: expected a whole number, got ${text}\n\n${usage}`)
  process.exit(2)
}

const main = async () => {
  const seed = number("seed", values.seed)
  const { path } = values
  console.log(`seed ${seed}${path === undefined ? "" : `, path ${path}`}`)
  const cluster = await startCluster()
  try {
    const report = await fuzz({
      cluster: cluster.url,
      cases: number("cases", values.cases),
      seed,
      ...(path === undefined ? {} : { path }),
      say: console.log,
    })
    const { answers, cases, failures, memory, relayed, requests, shed, tookMs, unheard } = report
    const perSecond = (cases / (tookMs / 1_000)).toFixed(0)
    console.log(
      `\n${cases} cases, ${requests} requests, ${(tookMs / 1_000).toFixed(0)} s, ${perSecond} cases a second`,
    )
    console.log(`${relayed} calls handed over, load turned away ${shed} times, ${unheard} cases given up`)
    for (const [what, count] of [...answers].sort()) console.log(`  ${what}: ${count}`)
    const last = memory.at(-1)
    if (last !== undefined) console.log(`memory at last: heap ${mib(last.heap)}, resident ${mib(last.rss)}`)
    for (const failure of failures) console.error(`\nFAILED: ${failure}`)
    return failures.length === 0 ? 0 : 1
  } finally {
    await cluster.stop()
  }
}

if (values.help) console.log(usage)
else process.exitCode = await main()
