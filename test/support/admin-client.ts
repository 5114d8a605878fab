// The admin API over HTTP, as an operator's script calls it.

import { openApi } from "../../src/http/admin/docs.ts"

export const adminToken = "the-token-of-the-operator"

/** Whatever the API says; a test knows which fields it looks at. */
export interface Told {
  readonly status: number
  readonly type: string | null
  readonly body: ReturnType<typeof JSON.parse>
}

export interface AdminClient {
  readonly get: (path: string) => Promise<Told>
  readonly post: (path: string, body?: unknown) => Promise<Told>
  readonly put: (path: string, body: unknown) => Promise<Told>
  readonly patch: (path: string, body: unknown) => Promise<Told>
  readonly remove: (path: string) => Promise<Told>
  /** Every item of a list, page by page, with something done in between. */
  readonly walk: (path: string, between?: () => Promise<unknown>) => Promise<ReadonlyArray<Told["body"]>>
  readonly send: (method: string, path: string, init?: RequestInit) => Promise<Told>
}

type Responses = Readonly<Record<string, { readonly content: Readonly<Record<string, unknown>> }>>

const document: ReturnType<typeof JSON.parse> = openApi()

const described = Object.entries<object>(document.paths).flatMap(([path, methods]) =>
  Object.entries<{ readonly responses: Responses }>({ ...methods }).map(([method, { responses }]) => ({
    method: method.toUpperCase(),
    path: new RegExp(`^${path.replace(/\{\w+\}/g, "[^/]+")}$`),
    responses,
  })),
)

/** Whatever a route says, the document must have told before. */
const expectDescribed = (method: string, path: string, { status, type }: Told) => {
  const bare = `/api/v1/admin${path.replace(/\?.*/, "")}`
  const route = described.find((candidate) => candidate.method === method && candidate.path.test(bare))
  if (route === undefined ? status === 404 : route.responses[status]?.content[type ?? ""] !== undefined)
    return
  throw new Error(`${method} ${path} answers ${status} ${type}, of which the document knows nothing`)
}

const parsed = (text: string) => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** A client of the service at that URL, with the operator's token or another one; an empty one is not sent. */
export const adminOf = (url: string, token: string | undefined = adminToken): AdminClient => {
  const send = async (method: string, path: string, init: RequestInit = {}): Promise<Told> => {
    const headers = {
      ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
      ...(init.headers as Record<string, string> | undefined),
    }
    const response = await fetch(`${url}/api/v1/admin${path}`, { ...init, method, headers })
    const told = {
      status: response.status,
      type: response.headers.get("content-type"),
      body: parsed(await response.text()),
    }
    expectDescribed(method, path, told)
    return told
  }
  const withBody = (method: string) => (path: string, body?: unknown) =>
    send(
      method,
      path,
      body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { "content-type": "application/json" } },
    )
  return {
    send,
    get: (path) => send("GET", path),
    post: withBody("POST"),
    put: withBody("PUT"),
    patch: withBody("PATCH"),
    remove: (path) => send("DELETE", path),
    walk: async (path, between = async () => {}) => {
      const items: Array<unknown> = []
      let cursor: string | null = null
      do {
        const more: string = cursor === null ? "" : `${path.includes("?") ? "&" : "?"}cursor=${cursor}`
        const { body, status }: Told = await send("GET", path + more)
        if (status !== 200) throw new Error(`${status}: ${JSON.stringify(body)}`)
        items.push(...body.items)
        cursor = body.next_cursor
        await between()
      } while (cursor !== null)
      return items
    },
  }
}
