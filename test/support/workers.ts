// Sample workers with the tests' secret, and ways for them to misbehave.

import { spawn } from "node:child_process"
import type { ServerResponse } from "node:http"
import { connect, type Socket } from "node:net"
import { fileURLToPath } from "node:url"
import { type SampleWorker, startSampleWorker } from "../../src/commands/sample-worker.ts"
import { onFreePort } from "./ports.ts"
import { root, signal } from "./processes.ts"
import { coreSecret } from "./service.ts"

let started = 0

export const startWorker = (name = `worker-${++started}`): Promise<SampleWorker> =>
  onFreePort((port) => startSampleWorker({ name, secret: coreSecret, port }))

/** Reports no load and no capacity: the simplest worker there can be. */
export const plainHealth = { status: 200, body: {} } as const

/** Takes the request and drops the connection without an answer. */
export const hangUp = (_: unknown, response: ServerResponse): void => {
  response.socket?.destroy()
}

/** Answers after a while. */
export const slowly =
  (ms: number, status: number, body: unknown) =>
  (_: unknown, response: ServerResponse): void => {
    setTimeout(() => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body))
    }, ms)
  }

/** Answers with exactly these bytes. */
export const bytes =
  (
    status: number,
    body: Uint8Array | string,
    headers: Record<string, string> = { "content-type": "application/json" },
  ) =>
  (_: unknown, response: ServerResponse): void => {
    response.writeHead(status, headers).end(body)
  }

/** Promises a longer body than it sends, and breaks off. */
export const cutOff =
  (status: number, begun: string) =>
  (_: unknown, response: ServerResponse): void => {
    response.writeHead(status, { "content-type": "application/json", "content-length": "1000" })
    response.write(begun, () => setTimeout(() => response.socket?.destroy(), 20))
  }

/** How often each call reached the worker, by call id. */
export const seenByCall = (...workers: ReadonlyArray<SampleWorker>): Map<string, number> => {
  const counts = new Map<string, number>()
  for (const { body } of workers.flatMap((worker) => worker.seen)) {
    const id = body["call_id"] ?? ""
    counts.set(id, (counts.get(id) ?? 0) + 1)
  }
  return counts
}

/** A worker that can be frozen: connections to it then hang, and nothing that was not connected gets through. */
export interface FreezableWorker {
  readonly url: string
  readonly freeze: () => Promise<void>
  readonly thaw: () => void
  readonly stop: () => void
}

export const startFreezableWorker = async (): Promise<FreezableWorker> => {
  const script = fileURLToPath(new URL("./freezable-worker.ts", import.meta.url))
  // On Node whatever the tests run on: Deno does not let it choose the length of that queue.
  const child = spawn(`${root}node_modules/.bin/node`, [script], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  const port = await new Promise<number>((resolve) => {
    child.stdout.once("data", (chunk: Buffer) => resolve(Number(chunk.toString().trim())))
  })
  const fillers: Array<Socket> = []
  const thaw = () => {
    for (const filler of fillers.splice(0)) filler.destroy()
    signal(child, "SIGCONT")
  }
  return {
    url: `http://127.0.0.1:${port}`,
    freeze: async () => {
      signal(child, "SIGSTOP")
      // Until one is left hanging the queue is not full.
      let hanging = false
      while (!hanging) {
        const filler = connect(port, "127.0.0.1")
        filler.on("error", () => {})
        fillers.push(filler)
        hanging = await new Promise<boolean>((resolve) => {
          filler.once("connect", () => resolve(false))
          // Whatever is there to be read comes before that.
          setTimeout(() => setImmediate(() => resolve(filler.connecting)), 300)
        })
      }
    },
    thaw,
    stop: () => {
      thaw()
      signal(child, "SIGKILL")
    },
  }
}
