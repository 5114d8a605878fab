// `npm run prune` beside a measurement, and whether it really deleted something meanwhile.

import { setTimeout } from "node:timers/promises"
import { ownRuntime, signal, start } from "../support/processes.ts"
import type { StagedDatabase } from "./stage.ts"

// Of the ledger's 90 days: enough for all rounds.
const olderThanDays = 30

const oldCalls = ({ look }: StagedDatabase, cutoffMs: number): Promise<number> =>
  look(async (query) => {
    const rows = await query(`SELECT count(*)::int AS old FROM calls WHERE started_at_ms < ${cutoffMs}`)
    return Number(rows[0]?.["old"])
  })

export interface BesidePruning {
  /** Stops it and says what was wrong: it must have deleted calls, and have had some left. */
  readonly stop: () => Promise<ReadonlyArray<string>>
}

/** Begins to delete old calls of the database. */
export const startPruning = async (database: StagedDatabase): Promise<BesidePruning> => {
  const cutoffMs = Date.now() - olderThanDays * 86_400_000
  const before = await oldCalls(database, cutoffMs)
  const { child, exited, output } = start(ownRuntime, "commands/prune.ts", {
    args: ["--older-than", `${olderThanDays}d`],
    env: database.env,
  })
  const startedAt = performance.now()
  return {
    stop: async () => {
      const ended = await Promise.race([exited.then(() => true), setTimeout(0, false)])
      signal(child, "SIGTERM")
      await exited
      const seconds = (performance.now() - startedAt) / 1000
      const deleted = before - (await oldCalls(database, cutoffMs))
      const count = deleted.toLocaleString("en-US")
      console.log(`${count} calls deleted meanwhile, ${Math.round(deleted / seconds)} a second`)
      return [
        ...(deleted > 0 ? [] : [`nothing was deleted: ${output().slice(-300)}`]),
        ...(ended ? [`the deleting ended before the round: ${output().slice(-300)}`] : []),
      ]
    },
  }
}
