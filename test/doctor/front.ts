// What may stand in front of a service or a worker: a proxy that passes everything on, or does one thing wrong.

import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http"
import { createServer as createTlsServer } from "node:https"
import type { AddressInfo } from "node:net"

/** Answers in place of what is behind it; `undefined` lets the request pass. */
export type Instead = (request: IncomingMessage, response: ServerResponse) => true | undefined

export interface FrontOptions {
  /** PEM; without it it speaks plain HTTP. */
  readonly tls?: { readonly cert: string; readonly key: string }
  readonly instead?: Instead
  readonly changeBody?: (body: Buffer) => Buffer
  readonly without?: ReadonlyArray<string>
}

export interface Front {
  readonly url: string
  readonly stop: () => Promise<void>
}

const read = async (request: IncomingMessage) => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

const ownHeaders = new Set(["host", "connection", "content-length", "transfer-encoding"])

const passOn = async (
  behind: string,
  options: FrontOptions,
  request: IncomingMessage,
  response: ServerResponse,
) => {
  const raw = await read(request)
  if (options.instead?.(request, response)) return
  const dropped = new Set([...ownHeaders, ...(options.without ?? [])])
  const headers = Object.entries(request.headers).flatMap(
    ([name, value]): Array<[string, string]> => (dropped.has(name) ? [] : [[name, String(value)]]),
  )
  const method = request.method ?? "GET"
  const body = options.changeBody?.(raw) ?? raw
  const answer = await fetch(behind + (request.url ?? ""), {
    method,
    headers,
    redirect: "manual",
    ...(method === "POST" && { body: new Uint8Array(body) }),
  })
  const type = answer.headers.get("content-type") ?? "text/plain"
  response.writeHead(answer.status, { "content-type": type }).end(await answer.text())
}

/** Listens on a free port of the loopback. */
export const startFront = async (behind: string, options: FrontOptions = {}): Promise<Front> => {
  const listener: RequestListener = (request, response) => {
    passOn(behind, options, request, response).catch(() => response.destroy())
  }
  const server = options.tls === undefined ? createServer(listener) : createTlsServer(options.tls, listener)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()))
  const { port } = server.address() as AddressInfo
  return {
    url: `${options.tls === undefined ? "http" : "https"}://127.0.0.1:${port}`,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** As most frameworks do it: a path for POST says so to other methods. */
export const onlyPost: Instead = (request, response) => {
  if (request.url !== "/livekit/dispatch" || request.method === "POST") return undefined
  response.writeHead(405, { allow: "POST" }).end()
  return true
}

/** Answers one path so, whatever is asked. */
export const answering =
  (path: string, status: number, headers: Record<string, string> = {}): Instead =>
  (request, response) => {
    if (request.url !== path) return undefined
    response.writeHead(status, headers).end()
    return true
  }
