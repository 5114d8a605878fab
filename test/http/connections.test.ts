// How many connections a server keeps open, and whose.

import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { afterEach, describe, expect, it } from "vitest"
import { limitConnections } from "../../src/http/connections.ts"
import { type Connection, open } from "../support/raw-http.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"

const cleanUps: Array<() => unknown> = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
})

const startServer = async (env: Record<string, string>) => {
  const refused: Array<string> = []
  const server = createServer((_, response) => response.end("here"))
  limitConnections(server, settingsOf(env), (limit) => refused.push(limit))
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  cleanUps.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, refused }
}

const connectTo = async (url: string) => {
  const connection = await open(url)
  cleanUps.push(() => connection.socket.destroy())
  return connection
}
/** Has asked for nothing yet, so it is not idle: it may be about to. */
const busy = async (url: string, count: number): Promise<ReadonlyArray<Connection>> => {
  const made: Array<Connection> = []
  while (made.length < count) {
    const connection = await connectTo(url)
    connection.socket.write("GET / HTTP/1.1\r\n")
    made.push(connection)
  }
  return made
}
const answered = (connection: Connection) => {
  connection.socket.write("Host: x\r\n\r\n")
  return eventually("an answer", () => connection.text().endsWith("here"))
}

describe("connections", () => {
  it("beyond the limit are closed without a word, until one of the others goes", async () => {
    const { refused, url } = await startServer({ MAX_CONNECTIONS: "3" })
    const [first, ...others] = await busy(url, 3)
    const [fourth, fifth] = await busy(url, 2)
    await Promise.all([fourth?.closed, fifth?.closed])
    expect([fourth?.text(), fifth?.text()]).toEqual(["", ""])
    expect(refused).toEqual(["connections", "connections"])
    for (const other of others) await answered(other)
    first?.socket.destroy()
    await eventually("a place", async () => {
      const [next] = await busy(url, 1)
      next?.socket.write("Host: x\r\n\r\n")
      return eventually("an answer or an end", () => next?.isClosed() || next?.text() !== "").then(
        () => !next?.isClosed(),
      )
    })
  })

  it("on which nothing goes on give way where there are too many", async () => {
    const { refused, url } = await startServer({ MAX_CONNECTIONS: "3" })
    const [asking] = await busy(url, 1)
    const [idle] = await busy(url, 1)
    await answered(idle!)
    const [third] = await busy(url, 1)
    await idle?.closed
    const [fourth] = await busy(url, 1)
    for (const connection of [asking, third, fourth]) await answered(connection!)
    expect(refused).toEqual([])
  })

  it("of one source have a limit of their own", async () => {
    const { refused, url } = await startServer({ MAX_CONNECTIONS_PER_SOURCE: "2" })
    const first = await busy(url, 2)
    const [third] = await busy(url, 1)
    await third?.closed
    expect([third?.text(), refused]).toEqual(["", ["source-connections"]])
    for (const connection of first) await answered(connection)
  })

  it("of a trusted proxy have not", async () => {
    const { refused, url } = await startServer({
      MAX_CONNECTIONS_PER_SOURCE: "2",
      TRUSTED_PROXIES: "127.0.0.0/8",
    })
    for (const connection of await busy(url, 5)) await answered(connection)
    expect(refused).toEqual([])
  })

  // Elsewhere 127.0.0.1 is the only address of the loopback.
  it.runIf(process.platform === "linux")("of another source than the one that is full get in", async () => {
    const { refused, url } = await startServer({ MAX_CONNECTIONS_PER_SOURCE: "1" })
    await busy(url, 1)
    const other = await open(url, "127.0.0.2")
    cleanUps.push(() => other.socket.destroy())
    other.socket.write("GET / HTTP/1.1\r\n")
    await answered(other)
    expect(refused).toEqual([])
  })
})
