// A worker on a bare socket, which is well by its health and does with a call whatever a test says.

import { type AddressInfo, createServer, type Socket } from "node:net"

/** Does something with the connection on which a call has come whole. */
export type Conduct = (socket: Socket, callId: string) => void

export interface RawWorker {
  readonly url: string
  /** The call ids it was sent, in this order. */
  readonly seen: ReadonlyArray<string>
  conduct: Conduct
  /** Accepts connections and reads nothing any more, of those that there are neither. */
  readonly deafen: () => void
  readonly stop: () => Promise<void>
}

const health = JSON.stringify({ status: "ok", active_calls: 0, max_calls: 100 })
const healthAnswer = `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${health.length}\r\n\r\n${health}`

/** The first request in what has come so far, once all of it is there. */
const firstOf = (text: string) => {
  const end = text.indexOf("\r\n\r\n")
  if (end < 0) return undefined
  const length = Number(/^content-length: *(\d+)/im.exec(text.slice(0, end))?.[1] ?? 0)
  const whole = end + 4 + length
  if (text.length < whole) return undefined
  return {
    isHealth: text.startsWith("GET /health "),
    body: text.slice(end + 4, whole),
    rest: text.slice(whole),
  }
}

/** Listens on a free port of the loopback. */
export const startRawWorker = async (): Promise<RawWorker> => {
  const sockets = new Set<Socket>()
  const seen: Array<string> = []
  let deaf = false
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
    socket.on("close", () => sockets.delete(socket))
    if (deaf) return
    let text = ""
    socket.setEncoding("latin1").on("data", (chunk: string) => {
      text += chunk
      for (let request = firstOf(text); request !== undefined; request = firstOf(text)) {
        text = request.rest
        if (request.isHealth) socket.write(healthAnswer)
        else {
          const callId = String(JSON.parse(request.body).call_id)
          seen.push(callId)
          worker.conduct(socket, callId)
        }
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const worker: RawWorker = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    conduct: (socket) => socket.destroy(),
    deafen: () => {
      deaf = true
      for (const socket of sockets) socket.pause()
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
  return worker
}

/** Writes a text one byte a second, for as long as somebody listens. */
export const drip = (socket: Socket, text: string): void => {
  let at = 0
  const timer = setInterval(() => socket.write(text[at++ % text.length]!), 1_000)
  socket.on("close", () => clearInterval(timer))
}

/** Writes so many bytes of a body, as fast as they are taken; `wrote` is told how many were. */
export const pour = (socket: Socket, bytes: number, wrote: (bytes: number) => void): void => {
  const chunk = Buffer.alloc(256 * 1024, "x")
  let left = bytes
  const more = () => {
    while (left > 0 && !socket.destroyed) {
      left -= chunk.length
      wrote(chunk.length)
      if (!socket.write(chunk)) break
    }
  }
  socket.on("drain", more)
  more()
}
