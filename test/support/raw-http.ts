// HTTP by hand, for requests that no client would make.

import { connect, type Socket } from "node:net"

/** What came over a connection until it was closed, or until nobody waited any longer. */
export interface Heard {
  readonly text: string
  /** Of every final answer, in their order. */
  readonly statuses: ReadonlyArray<number>
  readonly closed: boolean
  readonly tookMs: number
}

export interface Connection {
  readonly socket: Socket
  readonly text: () => string
  readonly isClosed: () => boolean
  /** Resolves when the other side has closed it, with the time that took. */
  readonly closed: Promise<number>
}

const statusesIn = (text: string) =>
  [...text.matchAll(/HTTP\/1\.1 ([2-5]\d\d) /g)].map(([, status]) => Number(status))

/** Connects, and keeps what is said; resets do not fail anything. */
export const open = async (url: string, localAddress?: string): Promise<Connection> => {
  const { hostname, port } = new URL(url)
  const startedAt = performance.now()
  const socket = connect({
    host: hostname,
    port: Number(port),
    ...(localAddress === undefined ? {} : { localAddress }),
  })
  let text = ""
  let isClosed = false
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1")
  })
  socket.on("error", () => {})
  const closed = new Promise<number>((resolve) => {
    for (const event of ["end", "close"] as const) {
      socket.once(event, () => {
        isClosed = true
        resolve(performance.now() - startedAt)
      })
    }
  })
  await new Promise<void>((resolve) => {
    socket.once("connect", () => resolve())
    socket.once("close", () => resolve())
  })
  return { socket, text: () => text, isClosed: () => isClosed, closed }
}

/** Says something, and listens until the connection is closed, `answers` have come or `withinMs` have passed. */
export const say = async (
  url: string,
  said: string | Uint8Array | ((socket: Socket) => unknown),
  { answers = Number.POSITIVE_INFINITY, withinMs = 15_000 } = {},
): Promise<Heard> => {
  const startedAt = performance.now()
  const { closed, isClosed, socket, text } = await open(url)
  if (typeof said === "function") said(socket)
  else if (typeof said === "string") socket.write(said, "latin1")
  else socket.write(said)
  const enough = new Promise<void>((resolve) => {
    setTimeout(resolve, withinMs).unref()
    socket.on("data", () => {
      // The last one's body may still be on its way.
      if (statusesIn(text()).length >= answers) setTimeout(resolve, 50)
    })
  })
  await Promise.race([closed, enough])
  socket.destroy()
  return {
    text: text(),
    statuses: statusesIn(text()),
    closed: isClosed(),
    tookMs: performance.now() - startedAt,
  }
}

/** The body of the one answer, as JSON. */
export const bodyOf = ({ text }: Heard): unknown => JSON.parse(text.slice(text.indexOf("\r\n\r\n") + 4))
