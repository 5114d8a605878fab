// The results as a table for people.

import type { Result } from "./play.ts"

const columns: ReadonlyArray<readonly [title: string, of: (result: Result) => number | string]> = [
  ["events", ({ sent }) => sent],
  ["calls", ({ calls }) => calls],
  ["dispatched", ({ dispatched }) => dispatched],
  ["rescued", ({ rescued }) => rescued],
  ["refused", ({ refused }) => refused],
  ["duplicated", ({ duplicated }) => duplicated],
  ["lost", ({ lost }) => lost],
  ["rows missing", ({ rowsMissing }) => rowsMissing],
  ["worst ms", ({ worstMs }) => worstMs],
  ["deaths", ({ deaths }) => deaths],
  ["took s", ({ tookS }) => tookS],
]

const first = 20

export const heading = ["scenario".padEnd(first), ...columns.map(([title]) => title.padStart(10))].join("  ")

export const line = (result: Result): string =>
  [
    result.scenario.padEnd(first),
    ...columns.map(([title, of]) => String(of(result)).padStart(Math.max(10, title.length))),
  ].join("  ")

/** What was not as promised, a line each. */
export const told = ({ faults, violations }: Result): ReadonlyArray<string> => [
  ...violations.map(({ call, what, why }) => `    ${what}: ${call} ${why}`),
  ...faults.map((fault) => `    ${fault}`),
]
