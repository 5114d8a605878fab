// Processors and what processes take of them: one for the contender, the others for all else; Linux only.

import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"

const said = (command: string, args: ReadonlyArray<string>): string | undefined => {
  try {
    return execFileSync(command, [...args], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim()
  } catch {
    return undefined
  }
}

const read = (path: string): string => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return ""
  }
}

/** The numbers in a list like `0-3,8`. */
const listed = (list: string): ReadonlyArray<number> =>
  list.split(",").flatMap((part) => {
    const [first = 0, last = first] = part.split("-").map(Number)
    return Array.from({ length: last - first + 1 }, (_, n) => first + n)
  })

/** How contenders are kept apart from all else. */
export interface Pinning {
  /** For a person. */
  readonly told: string
  /** What stands before a contender's own command. */
  readonly before: ReadonlyArray<string>
}

/**
 * Moves this process, and with it whatever it starts, off the first processor, which is the contenders'. Nothing is
 * moved where there is no `taskset` or only one processor.
 */
export const pin = (): Pinning => {
  const allowed = listed(/^Cpus_allowed_list:\s*(\S+)/m.exec(read("/proc/self/status"))?.[1] ?? "0")
  const [first, ...others] = allowed
  const unpinned = { told: "processors are not pinned", before: [] }
  if (others.length === 0) return unpinned
  if (said("taskset", ["-a", "-c", "-p", others.join(","), String(process.pid)]) === undefined)
    return unpinned
  return {
    told: `contender on processor ${first}, all else on ${others.join(", ")}`,
    before: ["taskset", "-c", String(first)],
  }
}

const ticksPerSecond = Number(said("getconf", ["CLK_TCK"]) ?? 100)

const childrenOf = (pid: number): ReadonlyArray<number> => {
  const tasks = `/proc/${pid}/task`
  try {
    return readdirSync(tasks).flatMap((task) =>
      read(`${tasks}/${task}/children`).trim().split(" ").filter(Boolean).map(Number),
    )
  } catch {
    return []
  }
}

const family = (pid: number): ReadonlyArray<number> => [pid, ...childrenOf(pid).flatMap(family)]

const sum = (values: ReadonlyArray<number>) => values.reduce((total, value) => total + value, 0)

/** Milliseconds of processor time that a process and its children have taken; 0 where nobody knows. */
export const cpuMs = (pid: number): number => {
  const ticks = family(pid).map((one) => {
    // The name, in brackets, may hold spaces; user and system time are the 14th and 15th field.
    const fields = read(`/proc/${one}/stat`).split(") ").at(-1)?.split(" ") ?? []
    return Number(fields[11] ?? 0) + Number(fields[12] ?? 0)
  })
  return (sum(ticks) * 1000) / ticksPerSecond
}

export interface Memory {
  readonly residentMiB: number
  readonly peakMiB: number
}

/** What a process and its children hold of the memory now, and have held at most. */
export const memoryOf = (pid: number): Memory => {
  const of = (field: string) =>
    sum(
      family(pid).map((one) =>
        Number(new RegExp(`^${field}:\\s*(\\d+)`, "m").exec(read(`/proc/${one}/status`))?.[1] ?? 0),
      ),
    ) / 1024
  return { residentMiB: of("VmRSS"), peakMiB: of("VmHWM") }
}
