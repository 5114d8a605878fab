// Taking in connections as fast as they come, also while there is much to do.

import type { Server } from "node:http"
import { createServer, type ListenOptions } from "node:net"
import { Effect } from "effect"

// Node takes in one connection of a listening socket on each turn of its thread. The longer the turns, the longer those
// who wait stand in the kernel's queue, which nobody sees, nor sheds from, and which drops them once it is full. Sockets
// that share a port have a turn each. Deno takes in all that wait, and elsewhere than on Linux ports are not shared out.
const sockets = 32

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)
const canShare =
  process.platform === "linux" &&
  process.versions["deno"] === undefined &&
  (major > 23 || (major === 23 && minor >= 1))

type Where = Pick<ListenOptions, "host" | "port" | "reusePort">

/**
 * Where to listen so that the port can be shared among the sockets of this process, as `acceptMany` does. A port that
 * somebody has already is not shared: two services behind one port would each get a part of the calls.
 */
export const shareable = (host: string, port: number): Effect.Effect<Where> =>
  Effect.callback((resume) => {
    const alone = { host, port }
    if (!canShare) return resume(Effect.succeed(alone))
    const trial = createServer()
    // Whoever listens there says what is wrong with it.
    trial.once("error", () => resume(Effect.succeed(alone)))
    trial.listen(alone, () => {
      const address = trial.address()
      const found = typeof address === "object" && address !== null ? address.port : port
      trial.close(() => resume(Effect.succeed({ host, port: found, reusePort: true })))
    })
  })

/** Gives a server that listens at a place of `shareable` more sockets to take connections in by. */
export const acceptMany = (server: Server, { host, port, reusePort }: Where): void => {
  if (reusePort !== true) return
  const others = Array.from({ length: sockets - 1 }, () =>
    createServer({ allowHalfOpen: true, noDelay: true }, (socket) => server.emit("connection", socket)),
  )
  server.once("listening", () => {
    for (const other of others) {
      // One that cannot be had is not missed.
      other.on("error", () => {})
      other.listen({ host, port, reusePort })
    }
  })
  const close = server.close.bind(server)
  // What came in by any of them is to be finished before the server is.
  server.close = (done) => {
    const closed = others.map((other) => new Promise<void>((resolve) => other.close(() => resolve())))
    return close((error) => void Promise.all(closed).then(() => done?.(error)))
  }
}
