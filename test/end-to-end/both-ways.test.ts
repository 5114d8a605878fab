// What LiveKit sends goes straight to the pipeline, and what differs in anything by way of the router: with one answer.

import { createHmac } from "node:crypto"
import { request } from "node:http"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { joinEvent, leaveOf } from "../support/events.ts"
import { runtimes } from "../support/processes.ts"
import { apiKey, apiSecret, type Service, startService, toBytes } from "../support/service.ts"
import { makeToken } from "../support/tokens.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

type Headers = Readonly<Record<string, string>>

interface Heard {
  readonly status: number | undefined
  readonly headers: Readonly<Record<string, unknown>>
  readonly body: string
}

/** Posts a body in one piece or, without a declared length, in many: the router's, by that alone. */
const post = (url: string, body: Uint8Array, headers: Headers, inPieces: boolean) =>
  new Promise<Heard>((resolve, reject) => {
    const length = inPieces ? { "Transfer-Encoding": "chunked" } : { "Content-Length": String(body.length) }
    const sent = request(url, { method: "POST", headers: { ...headers, ...length } }, (response) => {
      let text = ""
      response.setEncoding("utf8")
      response.on("data", (chunk: string) => {
        text += chunk
      })
      response.on("end", () => {
        // Each answer's own: when it was given, and the id by which it stands in the log.
        const { date: _, ...rest } = response.headers
        const named = text.replace(/"erresid":"[a-z0-9]+"/, '"erresid":"its own"')
        resolve({ status: response.statusCode, headers: rest, body: named })
      })
    })
    sent.on("error", reject)
    sent.end(body)
  })

const urls = {
  dispatch: "/api/v1/livekit/webhook",
  asked: "/api/v1/webhooks/livekit/sip-inbound",
  events: "/api/v1/webhooks/livekit/events",
  sessions: "/api/v1/webhooks/livekit",
}

describe.each(runtimes)("both ways on %s", (runtime) => {
  let database: PostgresDatabase
  let worker: SampleWorker
  let service: Service

  beforeAll(async () => {
    database = await makePostgresDatabase()
    worker = await startWorker()
    service = await startService({ ...database.env, CORE_FLEET: worker.url }, runtime)
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })

  /** The answers to what `make` makes, once for each way. */
  const ask = async (path: string, make: () => { readonly body: Uint8Array; readonly headers: Headers }) => {
    const answers: Array<Heard> = []
    for (const inPieces of [false, true]) {
      const { body, headers } = make()
      answers.push(await post(service.url + path, body, headers, inPieces))
    }
    const [straight, routed] = answers
    return { straight: straight!, routed: routed! }
  }
  const signed = (event: unknown, more: Headers = {}) => {
    const body = toBytes(event)
    return { body, headers: { Authorization: makeToken(body, { key: apiKey }), ...more } }
  }
  const wrong = (event: unknown) => {
    const body = toBytes(event)
    return { body, headers: { Authorization: makeToken(body, { key: apiKey, secret: "another" }) } }
  }
  const ignored = { event: "track_published", id: "EV_1", room: { sid: "RM_1", name: "call-1" } }
  const question = () => ({ call_id: crypto.randomUUID(), from_number: "+15551234567", to_number: "" })

  it.each<[string, string, number, () => { readonly body: Uint8Array; readonly headers: Headers }]>([
    ["an event that is no call", urls.dispatch, 200, () => signed(ignored)],
    ["a wrong secret", urls.dispatch, 401, () => wrong(ignored)],
    [
      "what is no token",
      urls.dispatch,
      401,
      () => ({ body: toBytes("{}"), headers: { Authorization: "x" } }),
    ],
    ["what is no JSON", urls.dispatch, 400, () => signed("no JSON")],
    ["nothing at all", urls.dispatch, 400, () => signed("")],
    ["a call", urls.dispatch, 200, () => signed(joinEvent())],
    ["a dry run", urls.dispatch, 200, () => signed(ignored, { "Switchhook-Dry-Run": "true" })],
    ["an event that is told", urls.events, 200, () => signed(ignored)],
    ["an event that is told with a wrong secret", urls.events, 401, () => wrong(ignored)],
    ["a leave", urls.events, 200, () => signed(leaveOf(joinEvent()))],
    ["a session's event", urls.sessions, 200, () => signed(ignored)],
    ["a session's event with a wrong secret", urls.sessions, 401, () => wrong(ignored)],
    ["a question", urls.asked, 200, () => signed(question())],
    ["a question with a wrong secret", urls.asked, 401, () => wrong(question())],
  ])("the same answer to %s", async (_, path, status, make) => {
    const { routed, straight } = await ask(path, make)
    expect(straight.status).toBe(status)
    expect(straight).toEqual(routed)
  })

  it("the same answer to a question that is signed as a body", async () => {
    const { routed, straight } = await ask(urls.asked, () => {
      const body = toBytes(question())
      const hmac = createHmac("sha256", apiSecret).update(body).digest("hex")
      return { body, headers: { "X-LiveKit-Signature": hmac } }
    })
    expect(straight.status).toBe(200)
    expect(straight).toEqual(routed)
  })

  it.each([201, 204, 205, 409, 500])("the same answer from a worker that answers %i", async (status) => {
    worker.behaviour.dispatch = respond(status, { ok: false })
    const { routed, straight } = await ask(urls.dispatch, () => signed(joinEvent()))
    worker.behaviour.dispatch = respond(200, { ok: true })
    // Or its breaker would open.
    await service.ring(joinEvent())
    expect(straight.status).toBe(status)
    expect(straight).toEqual(routed)
  })

  it("the same answer to a call that is delivered again, whichever way it came first", async () => {
    const join = joinEvent()
    const first = await ask(urls.dispatch, () => signed(join))
    const again = await ask(urls.dispatch, () => signed(join))
    expect(first.straight.headers["switchhook-replayed"]).toBeUndefined()
    expect(first.routed.headers["switchhook-replayed"]).toBe("true")
    expect(first.routed.body).toBe(first.straight.body)
    expect(again.straight).toEqual(first.routed)
    expect(again.routed).toEqual(first.routed)
  })

  it("many on one connection, as they come", async () => {
    const bodies = Array.from({ length: 50 }, (_, n) => (n % 2 === 0 ? signed(ignored) : wrong(ignored)))
    const answers: Array<number | undefined> = []
    for (const { body, headers } of bodies)
      answers.push(
        (await post(service.webhook, body, { ...headers, Connection: "keep-alive" }, false)).status,
      )
    expect(answers).toEqual(bodies.map((_, n) => (n % 2 === 0 ? 200 : 401)))
  })
})
