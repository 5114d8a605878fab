// Plays one scenario in a process of its own, on a clock of its own.

import { spawn } from "node:child_process"
import { appendFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { root } from "../support/processes.ts"
import type { Result } from "./play.ts"

export interface Wishes {
  readonly calls: number
  /** How long calls come, in real seconds. */
  readonly seconds: number
  readonly scale: number
  readonly seed: number
  /** How long after its last participant a room ends, in LiveKit's seconds. */
  readonly departure: number
}

const script = fileURLToPath(new URL("./play.ts", import.meta.url))
const clock = fileURLToPath(new URL("../support/fast-clock.ts", import.meta.url))

/** Plays the scenario on the cluster of that URL. Rejects where the play itself breaks. */
export const playScenario = async (scenario: string, cluster: string, wishes: Wishes): Promise<Result> => {
  const { calls, departure, scale, seconds, seed } = wishes
  const options = { scenario, cluster, calls, seconds, seed, departure }
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const child = spawn(`${root}node_modules/.bin/node`, ["--import", clock, script, ...args], {
    env: { ...process.env, CLOCK_SCALE: String(scale), CLOCK_EPOCH: String(Date.now()) },
    stdio: ["ignore", "pipe", "pipe"],
  })
  let printed = ""
  let complained = ""
  child.stdout.on("data", (chunk: Buffer) => {
    printed += chunk.toString("utf8")
  })
  child.stderr.on("data", (chunk: Buffer) => {
    complained += chunk.toString("utf8")
  })
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve))
  const log = process.env["CHAOS_LOG"]
  if (log !== undefined) appendFileSync(log, `\n=== ${scenario}\n${complained}`)
  if (code !== 0) throw new Error(`${scenario} broke off (${code}):\n${complained.slice(-4_000)}`)
  return JSON.parse(printed.trim().split("\n").at(-1) ?? "")
}
