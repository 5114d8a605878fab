// What the rounds come to: medians, and how they stand to those of the bare handler.

import type { Round } from "./measure.ts"

/** The numbers of a contender at a work. */
export type Numbers = Omit<Round, "faults">

export interface Result {
  readonly work: string
  readonly contender: string
  readonly rounds: ReadonlyArray<Round>
  /** `undefined` where it has failed in any round. */
  readonly median: Numbers | undefined
  /** Why it has failed. */
  readonly faults: ReadonlyArray<string>
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half]! : ((sorted[half - 1] ?? 0) + (sorted[half] ?? 0)) / 2
}

const medians = (rounds: ReadonlyArray<Round>): Numbers => {
  const of = (pick: (round: Round) => number) => median(rounds.map(pick))
  return {
    rate: of(({ rate }) => rate),
    connections: of(({ connections }) => connections),
    latency: {
      p50: of(({ latency }) => latency.p50),
      p99: of(({ latency }) => latency.p99),
      p999: of(({ latency }) => latency.p999),
    },
    lateP99: of(({ lateP99 }) => lateP99),
    cpuMsPerEvent: of(({ cpuMsPerEvent }) => cpuMsPerEvent),
    busy: of(({ busy }) => busy),
    memory: {
      residentMiB: of(({ memory }) => memory.residentMiB),
      peakMiB: of(({ memory }) => memory.peakMiB),
    },
    startMs: of(({ startMs }) => startMs),
  }
}

/** The result of all rounds of a contender at a work; an error is a round that never came to an end. */
export const resultOf = (work: string, contender: string, ended: ReadonlyArray<Round | Error>): Result => {
  const rounds = ended.filter((round): round is Round => !(round instanceof Error))
  const faults = ended.flatMap((round) => (round instanceof Error ? [round.message] : round.faults))
  return { work, contender, rounds, faults, median: faults.length === 0 ? medians(rounds) : undefined }
}

/** How a contender's throughput stands to that of the bare handler; `undefined` where either is not known. */
export const ratioOf = (
  results: ReadonlyArray<Result>,
  { contender, median, work }: Result,
): number | undefined => {
  const bare = results.find((result) => result.work === work && result.contender === "bare")?.median
  if (contender === "bare") return median === undefined ? undefined : 1
  return bare === undefined || median === undefined ? undefined : median.rate / bare.rate
}
