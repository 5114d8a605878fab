// What is no request, or not one that we wait for: answered by hand, because no route ever sees it.

import type { IncomingMessage, Server, ServerResponse } from "node:http"
import type { Duplex } from "node:stream"
import { problemBody, titles } from "./answers.ts"

/** Why it was turned away, as the metric names it. */
export type Malformed = "timeout" | "headers" | "size" | "malformed"

interface Refusal {
  readonly status: number
  readonly detail: string
  readonly reason: Malformed
}

const malformed: Refusal = { status: 400, detail: "This is no HTTP request", reason: "malformed" }

// By the error's code alone: its message is for those who know the parser. Deno's parser names few of them.
const refusals = new Map<string, Refusal>([
  ["ERR_HTTP_REQUEST_TIMEOUT", { status: 408, detail: "The request took too long", reason: "timeout" }],
  ["HPE_INVALID_EOF_STATE", { status: 400, detail: "The request broke off", reason: "malformed" }],
  ["HPE_HEADER_OVERFLOW", { status: 431, detail: "The headers are too large", reason: "headers" }],
  ["HPE_CHUNK_EXTENSIONS_OVERFLOW", { status: 413, detail: "Payload too large", reason: "size" }],
])

// Longer than the answer needs to arrive: a connection that is closed with bytes unread is reset, answer and all.
const lingerMs = 500

const close = (socket: Duplex, last?: string) => {
  socket.end(last)
  const timer = setTimeout(() => socket.destroy(), lingerMs)
  socket.once("close", () => clearTimeout(timer))
}

const headersOf = (body: string) => ({
  Date: new Date().toUTCString(),
  "Content-Type": "application/problem+json",
  "Content-Length": String(Buffer.byteLength(body)),
  Connection: "close",
})

const answerSocket = (socket: Duplex, { detail, status }: Refusal) => {
  const body = problemBody(status, detail)
  const lines = Object.entries(headersOf(body)).map(([name, value]) => `${name}: ${value}\r\n`)
  close(socket, `HTTP/1.1 ${status} ${titles[status]}\r\n${lines.join("")}\r\n${body}`)
}

const answerResponse = (response: ServerResponse, { detail, status }: Refusal) => {
  const body = problemBody(status, detail)
  response.writeHead(status, headersOf(body)).end(body)
}

/** Returns whether it was this that turned the connection away; what comes after that is only its rest. */
const refuse = (socket: Duplex, last: ServerResponse | undefined, refusal: Refusal): boolean => {
  if (!socket.writable) return false
  if (last === undefined || (last.req.complete && last.writableFinished && last.shouldKeepAlive))
    answerSocket(socket, refusal)
  // It has its answer already, or is getting it.
  else if (last.headersSent) close(socket)
  else if (!last.req.complete) {
    answerResponse(last, refusal)
    // Whoever waits for the rest of its body would wait for ever: there is an answer, so nobody tells them.
    socket.once("close", () => last.req.destroy(new Error("no more will come")))
  }
  // A whole request was there before, and its answer comes first: as the last one.
  else if (last.shouldKeepAlive) last.shouldKeepAlive = false
  else return false
  return true
}

/** Answers what the server itself cannot make a request of, and closes its connection. */
export const answerMalformed = (server: Server, refused: (reason: Malformed) => void): void => {
  const lastResponses = new WeakMap<Duplex, ServerResponse>()
  const remember = ({ socket }: IncomingMessage, response: ServerResponse) => {
    lastResponses.set(socket, response)
  }
  server.on("request", remember)
  server.on("checkContinue", remember)
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    if (error.code === "ECONNRESET" || error.code === "EPIPE") return socket.destroy()
    const refusal = refusals.get(error.code ?? "") ?? malformed
    if (refuse(socket, lastResponses.get(socket), refusal)) refused(refusal.reason)
  })
  server.on("checkExpectation", (_, response) => {
    answerResponse(response, { status: 417, detail: "Only 100-continue is expected", reason: "malformed" })
    refused("malformed")
  })
  server.on("connect", (_, socket) => {
    answerSocket(socket, { status: 400, detail: "This is no proxy", reason: "malformed" })
    refused("malformed")
  })
}

/**
 * Breaks off whoever still sends a body long after its answer. Node does that by itself; Deno stops counting the
 * time once there is an answer.
 */
export const closeStragglers = (server: Server, withinMs: number): void => {
  server.on("request", (request, response) => {
    response.once("finish", () => {
      if (request.complete || request.destroyed) return
      const timer = setTimeout(() => {
        if (!request.complete) request.socket.destroy()
      }, withinMs)
      request.socket.once("close", () => clearTimeout(timer))
    })
  })
}
