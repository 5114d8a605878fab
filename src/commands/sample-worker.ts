// A worker that follows the contract of the README: a real HTTP server, which can be told how to misbehave.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

/** One request that reached `/livekit/dispatch`. */
export interface SeenDispatch {
  readonly body: Record<string, string>
  readonly raw: string
  readonly headers: Record<string, string | undefined>
}

type Respond = (request: SeenDispatch, response: ServerResponse) => void

/** What the worker does; every field may be changed while it runs. */
export interface Behaviour {
  /** Its health answer; a function writes the response itself. */
  health: { readonly status: number; readonly body: unknown } | Respond
  /** Answers a call; the default takes it: 200 `{"ok":true,"worker":…}`. */
  dispatch: Respond
}

export interface SampleWorker {
  readonly url: string
  readonly name: string
  readonly seen: ReadonlyArray<SeenDispatch>
  readonly behaviour: Behaviour
  /** Stops listening and breaks every connection, as a killed process would. */
  readonly stop: () => Promise<void>
  /** Listens again on the same port. */
  readonly restart: () => Promise<void>
}

/** Answers with a status and JSON. */
export const respond =
  (status: number, body: unknown): Respond =>
  (_, response) => {
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body))
  }

const read = async (request: IncomingMessage) => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString("utf8")
}

const toSeen = (request: IncomingMessage, raw: string): SeenDispatch => {
  let body: Record<string, string> = {}
  try {
    body = JSON.parse(raw)
  } catch {}
  const headers = Object.fromEntries(
    Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
  )
  return { body, raw, headers }
}

/**
 * Starts a worker on a free port of the loopback. With `secret` it refuses calls that lack it in
 * `X-CXB-Core-Secret` with 401.
 */
export const startSampleWorker = async (options: {
  readonly name: string
  readonly secret?: string
  readonly port?: number
}): Promise<SampleWorker> => {
  const seen: Array<SeenDispatch> = []
  const behaviour: Behaviour = {
    health: { status: 200, body: { status: "ok", active_calls: 0, max_calls: 100 } },
    dispatch: respond(200, { ok: true, worker: options.name }),
  }
  const onRequest = async (request: IncomingMessage, response: ServerResponse) => {
    const raw = await read(request)
    if (request.url === "/health") {
      const { health } = behaviour
      if (typeof health === "function") return health(toSeen(request, raw), response)
      return respond(health.status, health.body)(toSeen(request, raw), response)
    }
    if (request.url === "/livekit/dispatch" && request.method !== "POST") {
      return respond(405, { error: "only POST" })(toSeen(request, raw), response)
    }
    if (request.url !== "/livekit/dispatch") {
      return respond(404, { error: "not found" })(toSeen(request, raw), response)
    }
    if (options.secret !== undefined && request.headers["x-cxb-core-secret"] !== options.secret) {
      return respond(401, { error: "wrong secret" })(toSeen(request, raw), response)
    }
    const dispatch = toSeen(request, raw)
    seen.push(dispatch)
    behaviour.dispatch(dispatch, response)
  }
  const listen = (port: number) =>
    new Promise<Server>((resolve, reject) => {
      const server = createServer((request, response) => {
        onRequest(request, response).catch(() => response.destroy())
      })
      server.once("error", reject)
      server.listen(port, "127.0.0.1", () => resolve(server))
    })
  let server = await listen(options.port ?? 0)
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    name: options.name,
    seen,
    behaviour,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
    restart: async () => {
      server = await listen(port)
    },
  }
}
