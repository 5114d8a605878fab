// A TCP forwarder that a test can take away and bring back: a database, or a network, that fails.

import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net"
import { onFreePort } from "./ports.ts"

export interface Forwarder {
  readonly port: number
  /** Breaks every connection and refuses new ones. */
  readonly cut: () => Promise<void>
  /** Takes everything and passes nothing on, connections new and old: a machine that hangs. */
  readonly hang: () => void
  /** Passes nothing more on over the connections that there are, and tells neither side; new ones work. */
  readonly forget: () => void
  /** Listens again on the same port, after `cut` or `hang`. */
  readonly restore: () => Promise<void>
}

/** Passes on whatever either side says, for as long as both are there; `sockets` has those that are open. */
export const bridge = (near: Socket, far: Socket, sockets: Set<Socket>): void => {
  for (const [socket, peer] of [
    [near, far],
    [far, near],
  ] as const) {
    sockets.add(socket)
    socket.pipe(peer)
    socket.on("error", () => peer.destroy())
    socket.on("close", () => {
      sockets.delete(socket)
      peer.destroy()
    })
  }
}

/** Listens on a free port of the loopback and forwards to `target`; `open: false` reserves the port only. */
export const startForwarder = async (
  target: { host: string; port: number },
  open = true,
): Promise<Forwarder> => {
  const sockets = new Set<Socket>()
  let hangs = false
  const listen = (port: number) =>
    new Promise<Server>((resolve, reject) => {
      const server = createServer((near) => {
        if (hangs) {
          sockets.add(near)
          near.on("error", () => {})
          return
        }
        const far = connect(target.port, target.host)
        bridge(near, far, sockets)
      })
      server.once("error", reject)
      server.listen(port, "127.0.0.1", () => resolve(server))
    })
  let server = await onFreePort(listen)
  const { port } = server.address() as AddressInfo
  const cut = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve())
      for (const socket of sockets) socket.destroy()
    })
  if (!open) await cut()
  return {
    port,
    cut,
    hang: () => {
      hangs = true
      for (const socket of sockets) socket.unpipe().pause()
    },
    forget: () => {
      for (const socket of sockets) socket.unpipe().pause()
    },
    restore: async () => {
      if (hangs) await cut()
      hangs = false
      server = await listen(port)
    },
  }
}
