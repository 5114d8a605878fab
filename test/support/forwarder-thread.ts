// A forwarder on a thread of its own: whoever is busy must not look like a database, or a network, that hangs.

import { once } from "node:events"
import { parentPort, Worker, workerData } from "node:worker_threads"
import { type Forwarder, startForwarder } from "./forwarder.ts"

export interface ForwarderThread extends Forwarder {
  readonly stop: () => Promise<void>
}

type Deed = Exclude<keyof Forwarder, "port">

interface Target {
  readonly host: string
  readonly port: number
}

const serve = async (parent: NonNullable<typeof parentPort>) => {
  const forwarder = await startForwarder(workerData as Target)
  parent.on("message", async (deed: Deed) => {
    await forwarder[deed]()
    parent.postMessage("done")
  })
  parent.postMessage(forwarder.port)
}

if (parentPort !== null) await serve(parentPort)

/** Like `startForwarder`; what is asked of it is done one thing after the other. Ends with the process, or by `stop`. */
export const startForwarderThread = async (target: Target): Promise<ForwarderThread> => {
  const worker = new Worker(new URL(import.meta.url), { workerData: target })
  worker.unref()
  const [port] = (await once(worker, "message")) as [number]
  let last: Promise<unknown> = Promise.resolve()
  const ask = (deed: Deed) => {
    last = last.then(() => {
      worker.postMessage(deed)
      return once(worker, "message")
    })
    return last.then(() => {})
  }
  return {
    port,
    cut: () => ask("cut"),
    hang: () => void ask("hang"),
    forget: () => void ask("forget"),
    restore: () => ask("restore"),
    stop: async () => void (await worker.terminate()),
  }
}
