// Who is measured: each a process of its own, started as its users would start it, with the same settings.

import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { openSync, readFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { freePorts } from "../support/ports.ts"
import { root } from "../support/processes.ts"
import { scratchDirectory } from "../support/scratch.ts"
import { Connection } from "./connections.ts"
import { apiKey, apiSecret, coreSecret, prepare } from "./events.ts"

export type DatabaseKind = "postgres" | "embedded"

export interface Contender {
  readonly name: string
  readonly title: string
  readonly command: ReadonlyArray<string>
  readonly env?: Readonly<Record<string, string>>
  readonly databases: ReadonlyArray<DatabaseKind>
}

const node = `${root}node_modules/.bin/node`
const deno = `${root}node_modules/.bin/deno`
const beside = (file: string) => `${root}test/bench/contenders/${file}`

// `npm start` and `deno task start`, word by word.
const wordsOf = (file: string, scripts: "scripts" | "tasks"): ReadonlyArray<string> =>
  JSON.parse(readFileSync(`${root}${file}`, "utf8"))[scripts].start.split(" ")
const npmStart = wordsOf("package.json", "scripts")
// Where it keeps what was compiled, it lets its caller say.
const settings = npmStart.flatMap((word) => {
  const [name = "", value = ""] = word.split("=")
  return /^[A-Z_]+=/.test(word) && name !== "NODE_COMPILE_CACHE" ? [[name, value]] : []
})
const started = {
  command: [node, ...npmStart.filter((word) => word.startsWith("--")), `${root}src/main.ts`],
  env: {
    NODE_COMPILE_CACHE: `${root}node_modules/.cache/compiled`,
    ...Object.fromEntries(settings),
  },
}
const denoFlags = wordsOf("deno.json", "tasks").filter((word) => word.startsWith("--"))
const both: ReadonlyArray<DatabaseKind> = ["postgres", "embedded"]

/** All of them, `bare` first: it is what the others are measured against. */
export const contenders = (python: string): ReadonlyArray<Contender> => [
  { name: "bare", title: "bare node:http", command: [node, beside("bare.ts")], databases: both },
  { name: "express", title: "Express", command: [node, beside("express.ts")], databases: both },
  {
    name: "fastapi",
    title: "FastAPI",
    command: [python, beside("fastapi_service.py")],
    databases: ["postgres"],
  },
  { name: "node", title: "Switchhook, Node", ...started, databases: both },
  {
    name: "deno",
    title: "Switchhook, Deno",
    command: [deno, "run", ...denoFlags, "-A", `${root}src/main.ts`],
    databases: both,
  },
]

/** Why a contender cannot be measured here; `undefined` where it can. */
export const whyNot = ({ command, name }: Contender): string | undefined => {
  const [interpreter = ""] = command
  if (name !== "fastapi") return undefined
  try {
    const needs = "import fastapi, uvicorn, asyncpg, httpx, livekit.api"
    execFileSync(interpreter, ["-c", needs], { stdio: "ignore" })
    return undefined
  } catch {
    return `${interpreter} has not what it needs: pip install -r test/bench/contenders/requirements.txt, or --python`
  }
}

export interface Started {
  readonly pid: number
  readonly port: number
  /** From the start of the process to the answer to its first call. */
  readonly startMs: number
  /** Asks it to end, and waits; returns what it has printed. */
  readonly stop: () => Promise<string>
}

const firstAnswerWithinMs = 30_000
const askEveryMs = 5

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

const isAnswered = async (port: number, bytes: Buffer) => {
  const connection = await Connection.open(port).catch(() => undefined)
  if (connection === undefined) return false
  const { status } = await new Promise<{ readonly status: number }>((resolve) =>
    connection.send(bytes, resolve),
  )
  connection.close()
  return status === 200
}

const ended = ({ exitCode, signalCode }: ChildProcess) => exitCode !== null || signalCode !== null

/** Starts it, and waits until it has dispatched one call, named after the run. */
export const startContender = async (
  { command, env: own = {}, name }: Contender,
  run: string,
  { before, env }: { readonly before: ReadonlyArray<string>; readonly env: Record<string, string> },
): Promise<Started> => {
  const [port = 0] = await freePorts(1)
  const printed = join(scratchDirectory(), `${run}.log`)
  const log = openSync(printed, "w")
  const [program = "", ...args] = [...before, ...command]
  const first = prepare("call", `${run}first`)
  const startedAt = performance.now()
  const child = spawn(program, args, {
    cwd: tmpdir(),
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      NODE_ENV: "production",
      LOG_LEVEL: "warn",
      PORT: String(port),
      HOST: "127.0.0.1",
      LIVEKIT_API_KEY: apiKey,
      LIVEKIT_API_SECRET: apiSecret,
      CXB_CORE_SECRET: coreSecret,
      // All come from one source, and nobody joins these calls.
      RATE_LIMIT_PER_MINUTE: "1000000",
      ANSWER_WITHIN: "3600",
      ...own,
      ...env,
    },
    stdio: ["ignore", log, log],
  })
  child.on("error", () => {})
  // Nothing is left behind where the measurement is broken off.
  const kill = () => child.kill("SIGKILL")
  process.once("exit", kill)
  const output = () => readFileSync(printed, "utf8")
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve())).finally(() =>
    process.off("exit", kill),
  )
  while (!(await isAnswered(port, first.bytes))) {
    if (ended(child)) throw new Error(`${name} has ended before it answered:\n${output().slice(-2000)}`)
    if (performance.now() - startedAt > firstAnswerWithinMs) {
      kill()
      throw new Error(`${name} does not answer:\n${output().slice(-2000)}`)
    }
    await pause(askEveryMs)
  }
  const startMs = performance.now() - startedAt
  return {
    pid: child.pid ?? 0,
    port,
    startMs,
    stop: async () => {
      child.kill("SIGTERM")
      const killer = setTimeout(kill, firstAnswerWithinMs)
      await closed
      clearTimeout(killer)
      return output()
    },
  }
}
