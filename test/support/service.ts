// The service as its users run it: a process of its own, on a free port, with its log read line by line.

import type { ChildProcess } from "node:child_process"
import { type Answered, post, signBody } from "../../src/commands/signing.ts"
import { ownRuntime, type Running, type Runtime, signal, start } from "./processes.ts"
import { scratchDirectory } from "./scratch.ts"
import { sleep } from "./waiting.ts"

export const apiKey = "devkey"
export const apiSecret = "devsecretdevsecretdevsecretdevsecret"
export const coreSecret = "test-core-secret"

export type LogLine = Record<string, unknown> & { readonly message?: string }

export interface Service {
  readonly url: string
  readonly webhook: string
  readonly log: ReadonlyArray<LogLine>
  /** Everything it printed, as it printed it. */
  readonly output: () => string
  readonly process: ChildProcess
  /** Sends a signal and waits for the exit code. */
  readonly stop: (name?: NodeJS.Signals) => Promise<number | null>
  readonly exited: Promise<number | null>
  /** Signs and posts bytes or an object as LiveKit does. */
  readonly ring: (body: unknown) => Promise<Answered>
  readonly get: (path: string) => Promise<{ readonly status: number; readonly text: string }>
}

/** Sends it again, as LiveKit does, while the service turns it away because of its load: then nothing was begun. */
export const untilLetIn = async <A>(
  send: () => Promise<A>,
  isTurnedAway: (told: A) => boolean,
): Promise<A> => {
  for (let tries = 0; ; tries++) {
    const told = await send()
    if (!isTurnedAway(told) || tries === 40) return told
    await sleep(500)
  }
}

/** The bytes of a body: an object as JSON, a string or bytes as they are. */
export const toBytes = (body: unknown): Uint8Array<ArrayBuffer> => {
  if (body instanceof Uint8Array) return new Uint8Array(body)
  return new TextEncoder().encode(typeof body === "string" ? body : JSON.stringify(body))
}

/**
 * Starts the service in production, with the tests' keys and on a free port; `env` adds to that or replaces it, and the
 * modules to preload come before all else.
 */
export const launch = (
  runtime: Runtime,
  env: Record<string, string>,
  preload: ReadonlyArray<string> = [],
): Running =>
  start(runtime, "main.ts", {
    preload,
    env: {
      NODE_ENV: "production",
      PORT: "0",
      HOST: "127.0.0.1",
      LIVEKIT_API_KEY: apiKey,
      LIVEKIT_API_SECRET: apiSecret,
      CXB_CORE_SECRET: coreSecret,
      DATA_DIR: scratchDirectory(),
      ...env,
    },
  })

const toLogLine = (line: string): LogLine => {
  try {
    return JSON.parse(line)
  } catch {
    return { text: line }
  }
}

/**
 * Starts the service and waits until it listens. `env` adds to, or replaces, production settings; the modules to
 * preload come before all else.
 */
export const startService = async (
  env: Record<string, string>,
  runtime: Runtime = ownRuntime,
  preload: ReadonlyArray<string> = [],
): Promise<Service> => {
  const { child, exited, output } = launch(runtime, env, preload)
  const log: Array<LogLine> = []
  let rest = ""
  const listening = new Promise<number>((resolve, reject) => {
    child.stdout.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString("utf8")).split("\n")
      rest = lines.pop() ?? ""
      for (const line of lines.map(toLogLine)) {
        log.push(line)
        if (line.message === "Listening") resolve(Number(line["port"]))
      }
    })
    exited.then((code) =>
      reject(new Error(`the service ended with ${code} before it listened:\n${output()}`)),
    )
  })
  const port = await listening
  const url = `http://127.0.0.1:${port}`
  const webhook = `${url}/api/v1/livekit/webhook`
  return {
    url,
    webhook,
    log,
    output,
    process: child,
    exited,
    stop: (name = "SIGTERM") => {
      signal(child, name)
      return exited
    },
    ring: async (body) => {
      const bytes = toBytes(body)
      const authorization = await signBody(bytes, apiKey, apiSecret)
      return untilLetIn(
        () => post(webhook, bytes, authorization),
        ({ body, status }) => status === 503 && body.includes("Overloaded"),
      )
    },
    get: async (path) => {
      const response = await fetch(url + path)
      return { status: response.status, text: await response.text() }
    },
  }
}
