// Whoever wishes us ill, beside the calls: garbage, slow requests, forged and repeated ones, open connections.

import { connect, type Socket } from "node:net"
import { webhookPath } from "../../src/http/webhook-routes.ts"
import { sleep } from "../support/waiting.ts"
import type { Stage } from "./stage.ts"

const open = (port: number): Socket => {
  const socket = connect(port, "127.0.0.1")
  socket.on("error", () => {})
  socket.resume()
  return socket
}

const head = (length: number | string, more = "") =>
  `POST ${webhookPath} HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n${more}`

// Each is written to a connection of its own, which is then left alone.
const forms: ReadonlyArray<string> = [
  "",
  "\u0000\u0001\u0002 no HTTP at all\r\n\r\n",
  `POST ${webhookPath} HTTP/1.1\r\nHost: x\r\nX-`,
  head(1_000, "Authorization: x\r\n\r\n{"),
  head(2, "\r\n{}"),
  head(2, "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.\r\n\r\n{}"),
  head("99999999999", "Authorization: x\r\n\r\n"),
  head(5, "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
  `POST ${webhookPath} HTTP/1.1\r\nHost: x\r\nX-Long: ${"x".repeat(40_000)}\r\n\r\n`,
  `POST ${webhookPath} HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n`,
]

/** Goes on for as long as calls come. Whatever was signed for us and was answered is sent again, late, as it was. */
export const besiege = async (stage: Stage): Promise<void> => {
  const sockets: Array<Socket> = []
  do {
    for (const { url } of stage.replicas) {
      const port = Number(new URL(url).port)
      for (const form of forms) {
        const socket = open(port)
        sockets.push(socket)
        if (form !== "") socket.write(form)
      }
    }
    const replayed = stage.seen.slice(-20)
    await Promise.all(replayed.map((outgoing) => stage.replay(outgoing)))
    await sleep(1_000)
    while (sockets.length > 200) sockets.shift()?.destroy()
  } while (stage.arriving())
  for (const socket of sockets) socket.destroy()
}
