// Processes of the project, as a user runs them, on either runtime.

import { type ChildProcess, type ChildProcessByStdio, spawn } from "node:child_process"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Readable } from "node:stream"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../../", import.meta.url))

const interpreters = {
  node: [`${root}node_modules/.bin/node`],
  deno: [`${root}node_modules/.bin/deno`, "run", "-A"],
} as const

// How each is told to load a module before the script.
const preloading = { node: "--import", deno: "--preload" } as const

export type Runtime = keyof typeof interpreters
/** The runtime the tests themselves run on. */
export const ownRuntime: Runtime = process.versions["deno"] === undefined ? "node" : "deno"
/** What services and commands run on: the tests' own, as all tests run on Node and on Deno. */
export const runtimes: ReadonlyArray<Runtime> = [ownRuntime]

export interface Running {
  readonly child: ChildProcessByStdio<null, Readable, Readable>
  /** The exit code; `null` where a signal ended it. */
  readonly exited: Promise<number | null>
  /** Everything it has printed so far. */
  readonly output: () => string
}

/**
 * Starts a script of `src/` with `env` as its whole environment, by default in a directory without an `.env`,
 * so that nobody's own settings count.
 */
export const start = (
  runtime: Runtime,
  script: string,
  options: {
    readonly args?: ReadonlyArray<string>
    readonly env?: Record<string, string>
    readonly cwd?: string
    /** Modules to load before it. */
    readonly preload?: ReadonlyArray<string>
  } = {},
): Running => {
  const [command, ...before] = interpreters[runtime]
  const preload = (options.preload ?? []).flatMap((module) => [preloading[runtime], module])
  const child = spawn(command, [...before, ...preload, `${root}src/${script}`, ...(options.args ?? [])], {
    cwd: options.cwd ?? tmpdir(),
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      // Hundreds of processes are started from the same files.
      NODE_COMPILE_CACHE: join(tmpdir(), "node-compile-cache"),
      ...options.env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  })
  let output = ""
  const collect = (chunk: Buffer) => {
    output += chunk.toString("utf8")
  }
  child.stdout.on("data", collect)
  child.stderr.on("data", collect)
  const exited = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)))
  return { child, exited, output: () => output }
}

/**
 * Sends a signal to a process that still runs. Not `child.kill`: on Deno that works once only, and names the
 * signal as the end of a process that has exited by itself.
 */
export const signal = (
  child: Pick<ChildProcess, "pid" | "exitCode" | "signalCode">,
  name: NodeJS.Signals,
): void => {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null)
    process.kill(child.pid, name)
}
