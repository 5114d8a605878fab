// Ports for whoever has to name them beforehand.

import { createServer, type Server } from "node:net"

const listen = (port: number) =>
  new Promise<Server | undefined>((resolve) => {
    const server = createServer()
    server.once("error", () => resolve(undefined))
    server.listen(port, "127.0.0.1", () => resolve(server))
  })

// Below those that the system gives to whoever asks for any: nobody else gets it before it is used.
const aPort = () => 10_000 + Math.floor(Math.random() * 20_000)

/** As many different ports of the loopback that nobody listens on. */
export const freePorts = async (count: number): Promise<ReadonlyArray<number>> => {
  const found = new Map<number, Server>()
  while (found.size < count) {
    const port = aPort()
    const server = found.has(port) ? undefined : await listen(port)
    if (server !== undefined) found.set(port, server)
  }
  for (const server of found.values()) await new Promise((resolve) => server.close(resolve))
  return [...found.keys()]
}

/** Listens on such a port, which stays one's own while nobody listens there for some time. */
export const onFreePort = async <A>(listen: (port: number) => Promise<A>, triesLeft = 10): Promise<A> => {
  const [port = 0] = await freePorts(1)
  return listen(port).catch((error) => {
    if (error?.code !== "EADDRINUSE" || triesLeft === 0) throw error
    return onFreePort(listen, triesLeft - 1)
  })
}
