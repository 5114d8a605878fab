// The sample worker of the measurement, a process of its own: takes every call after a constant time, and counts.
// On bare sockets, so that it is never what limits a contender; its answer says how long it really took.

import { createServer, type Socket } from "node:net"

/** What it can be told. */
export type WorkerOrder = { readonly do: "begin"; readonly holdMs: number } | { readonly do: "count" }

/** What it has seen since it was told to begin. */
export interface WorkerCount {
  readonly calls: number
  /** Requests beyond the first of a call. */
  readonly repeated: number
  /** Requests without the secret, the call or the key that they must have. */
  readonly wrong: number
}

const secret = process.argv[2] ?? ""
let holdMs = 0
let seen = new Map<string, number>()
let wrong = 0

const answerTo = (socket: Socket, body: string) => {
  if (socket.writable)
    socket.write(
      `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    )
}

const health = '{"status":"ok","active_calls":0,"max_calls":100000}'

const onCall = (socket: Socket, head: string, body: string) => {
  const startedAt = performance.now()
  const { call_id, room_name } = JSON.parse(body) as Record<string, string | undefined>
  const isWhole = head.includes(secret) && /\r\nidempotency-key: \S/i.test(head) && room_name !== undefined
  if (call_id === undefined || !isWhole) wrong++
  const id = call_id ?? ""
  seen.set(id, (seen.get(id) ?? 0) + 1)
  const answer = () =>
    answerTo(
      socket,
      `{"ok":true,"worker":"bench","held_us":${Math.round((performance.now() - startedAt) * 1000)}}`,
    )
  if (holdMs === 0) answer()
  else setTimeout(answer, holdMs)
}

const serve = (socket: Socket) => {
  let received = ""
  socket.setNoDelay(true)
  socket.setEncoding("latin1")
  socket.on("error", () => {})
  socket.on("data", (chunk: string) => {
    received += chunk
    for (let end = received.indexOf("\r\n\r\n"); end >= 0; end = received.indexOf("\r\n\r\n")) {
      const head = received.slice(0, end + 2)
      const after = end + 4 + Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0)
      if (received.length < after) return
      const body = received.slice(end + 4, after)
      received = received.slice(after)
      if (head.startsWith("POST ")) onCall(socket, head, body)
      else answerTo(socket, health)
    }
  })
}

const server = createServer(serve)
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  process.send?.({ port: typeof address === "object" && address !== null ? address.port : 0 })
})

process.on("message", (order: WorkerOrder) => {
  if (order.do === "begin") {
    ;({ holdMs } = order)
    seen = new Map()
    wrong = 0
  }
  const requests = [...seen.values()].reduce((sum, times) => sum + times, 0)
  process.send?.({ calls: seen.size, repeated: requests - seen.size, wrong } satisfies WorkerCount)
})
process.on("disconnect", () => process.exit(0))
