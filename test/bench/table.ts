// The results for a person who reads a terminal.

import { type Numbers, type Result, ratioOf } from "./results.ts"
import type { Work } from "./works.ts"

const grouped = (value: number) => Math.round(value).toLocaleString("en-US")
const ms = (value: number) => value.toFixed(value < 10 ? 2 : 1)

const columns: ReadonlyArray<readonly [title: string, of: (numbers: Numbers) => string]> = [
  ["events/s", ({ rate }) => grouped(rate)],
  ["conns", ({ connections }) => String(connections)],
  ["busy %", ({ busy }) => String(Math.round(busy * 100))],
  ["p50 ms", ({ latency }) => ms(latency.p50)],
  ["p99 ms", ({ latency }) => ms(latency.p99)],
  ["p99.9 ms", ({ latency }) => ms(latency.p999)],
  ["late p99", ({ lateP99 }) => ms(lateP99)],
  ["CPU ms/event", ({ cpuMsPerEvent }) => cpuMsPerEvent.toFixed(3)],
  ["MiB", ({ memory }) => grouped(memory.residentMiB)],
  ["peak MiB", ({ memory }) => grouped(memory.peakMiB)],
  ["start ms", ({ startMs }) => grouped(startMs)],
]

const width = (title: string) => Math.max(title.length, 8)

const ratio = (value: number | undefined) => (value === undefined ? "—" : `${value.toFixed(2)}×`)

const totals: ReadonlyArray<
  readonly [title: string, of: (numbers: Numbers) => number, unit: (value: number) => string]
> = [
  ["events per second", ({ rate }) => rate, (value) => `${grouped(value)}/s`],
  ["processor time", ({ cpuMsPerEvent }) => cpuMsPerEvent, (value) => `${value.toFixed(2)} ms`],
]

/** Throughput, and processor time for each event, against the bare handler: a work a line. */
export const ratioTable = (
  results: ReadonlyArray<Result>,
  works: ReadonlyArray<Work>,
  names: ReadonlyArray<string>,
): string => {
  const of = (work: Work, name: string) =>
    results.find((result) => result.work === work.name && result.contender === name)
  const line = (first: string, cells: ReadonlyArray<string>) =>
    [first.padEnd(36), ...cells.map((text) => text.padStart(18))].join("")
  return totals
    .flatMap(([title, pick, unit]) => [
      line(`${title}, against bare`, names),
      ...works.map((work) => {
        const bare = of(work, "bare")?.median
        const cells = names.map((name) => {
          const found = of(work, name)
          if (found === undefined) return "not measured"
          if (found.median === undefined) return "FAILED"
          const value = pick(found.median)
          return `${ratio(bare && value / pick(bare))} (${unit(value)})`
        })
        return line(`${work.name.padEnd(3)} ${work.title}`, cells)
      }),
      "",
    ])
    .join("\n")
    .trimEnd()
}

const details = (result: Result, all: ReadonlyArray<Result>) => {
  const { contender, faults, median } = result
  const first = `  ${contender.padEnd(9)}`
  if (median === undefined) return [`${first} FAILED`, ...faults.slice(0, 5).map((fault) => `      ${fault}`)]
  const cells = columns.map(([title, of]) => of(median).padStart(width(title)))
  return [[first, ratio(ratioOf(all, result)).padStart(6), ...cells].join("  ")]
}

/** All that was measured at one work, a contender a line. */
export const workTable = (results: ReadonlyArray<Result>, { name, title }: Work): string =>
  [
    `${name}: ${title}`,
    [" ".repeat(11), " ratio", ...columns.map(([head]) => head.padStart(width(head)))].join("  "),
    ...results.filter(({ work }) => work === name).flatMap((result) => details(result, results)),
  ].join("\n")
