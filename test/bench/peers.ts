// The worker and the load generator: processes that answer one order after the other.

import { type ChildProcess, fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import type { LoadOrder, LoadResult } from "./load.ts"
import type { WorkerCount, WorkerOrder } from "./worker.ts"

const start = (script: string, args: ReadonlyArray<string> = []) =>
  fork(fileURLToPath(new URL(script, import.meta.url)), args)

const next = <A>(child: ChildProcess): Promise<A> =>
  new Promise((resolve, reject) => {
    const onExit = () => reject(new Error("a process of the measurement has ended"))
    child.once("exit", onExit)
    child.once("message", (message: any) => {
      child.off("exit", onExit)
      if (typeof message.failed === "string") reject(new Error(message.failed))
      else resolve(message)
    })
  })

const ask = <A>(child: ChildProcess, order: WorkerOrder | LoadOrder): Promise<A> => {
  const answer = next<A>(child)
  child.send(order)
  return answer
}

export interface Peers {
  readonly workerUrl: string
  readonly worker: (order: WorkerOrder) => Promise<WorkerCount>
  readonly load: (order: LoadOrder) => Promise<LoadResult>
  readonly stop: () => void
}

/** Starts both; the worker expects that secret of whoever brings a call. */
export const startPeers = async (secret: string): Promise<Peers> => {
  const worker = start("./worker.ts", [secret])
  const { port } = await next<{ readonly port: number }>(worker)
  const load = start("./load.ts")
  return {
    workerUrl: `http://127.0.0.1:${port}`,
    worker: (order) => ask(worker, order),
    load: (order) => ask(load, order),
    stop: () => {
      if (worker.connected) worker.disconnect()
      if (load.connected) load.disconnect()
    },
  }
}
