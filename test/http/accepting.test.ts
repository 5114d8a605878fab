// That connections are taken in many at a time, by a port that is nobody else's, and all are finished at the end.

import { createServer, type Server } from "node:http"
import { type AddressInfo, connect } from "node:net"
import { Effect } from "effect"
import { afterEach, describe, expect, it } from "vitest"
import { acceptMany, shareable } from "../../src/http/accepting.ts"
import { open } from "../support/raw-http.ts"
import { eventually } from "../support/waiting.ts"

const host = "127.0.0.1"

const cleanUps: Array<() => unknown> = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
})

const startServer = async (
  answer: Parameters<typeof createServer>[1] = (_, response) => response.end("here"),
) => {
  const where = await Effect.runPromise(shareable(host, 0))
  const server = createServer(answer)
  acceptMany(server, where)
  await new Promise<void>((resolve) => server.listen(where, resolve))
  cleanUps.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return { server, port: (server.address() as AddressInfo).port }
}

const holdUp = (ms: number) => {
  const until = performance.now() + ms
  while (performance.now() < until);
}

const connectTo = (port: number, count: number) => {
  const sockets = Array.from({ length: count }, () => connect(port, host).on("error", () => {}))
  cleanUps.push(() => {
    for (const socket of sockets) socket.destroy()
  })
}

/** On how many turns of the thread connections come in that have waited for it. */
const turnsFor = async (server: Server, port: number, count: number) => {
  let turn = 0
  let accepted = 0
  const turns = new Set<number>()
  server.on("connection", () => {
    accepted++
    turns.add(turn)
  })
  connectTo(port, count)
  holdUp(50)
  while (accepted < count) {
    await new Promise(setImmediate)
    turn++
  }
  return turns.size
}

describe("connections that come at once", () => {
  it("are not taken in one by one", async () => {
    const { port, server } = await startServer()
    expect(await turnsFor(server, port, 200)).toBeLessThan(100)
  })

  it("are all answered, and those under way are finished before the server is closed", async () => {
    const { promise: finished, resolve: finish } = Promise.withResolvers<void>()
    const { port, server } = await startServer(async (_, response) => {
      await finished
      response.end("here")
    })
    let begun = 0
    server.on("request", () => begun++)
    const asking = await Promise.all(Array.from({ length: 40 }, () => open(`http://${host}:${port}`)))
    for (const { socket } of asking) socket.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await eventually("all have asked", () => begun === asking.length)
    let closed = false
    server.close(() => {
      closed = true
    })
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(closed).toBe(false)
    finish()
    await eventually("closed", () => closed)
    const answered = () => asking.filter(({ text }) => /^HTTP\/1\.1 200 .*here$/s.test(text()))
    await eventually("all have their answers", () => answered().length === asking.length)
  })
})

describe("a port", () => {
  it("that somebody has is not shared", async () => {
    const { port } = await startServer()
    const where = await Effect.runPromise(shareable(host, port))
    expect(where).toEqual({ host, port })
    const second = createServer()
    const failed = new Promise<NodeJS.ErrnoException>((resolve) => second.once("error", resolve))
    second.listen(where)
    expect((await failed).code).toBe("EADDRINUSE")
  })
})
