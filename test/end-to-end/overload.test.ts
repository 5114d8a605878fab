// More comes than can be done: who is turned away, who is not, and that nothing of it lasts.

import pg from "pg"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { type JoinEvent, joinEvent } from "../support/events.ts"
import { type Forwarder, startForwarder } from "../support/forwarder.ts"
import { runtimes } from "../support/processes.ts"
import { open } from "../support/raw-http.ts"
import { type Service, startService, toBytes } from "../support/service.ts"
import { makeToken } from "../support/tokens.ts"
import { eventually } from "../support/waiting.ts"
import { seenByCall, startWorker } from "../support/workers.ts"

const dispatchPath = "/api/v1/livekit/webhook"
const eventsPath = "/api/v1/webhooks/livekit/events"
const sessionsPath = "/api/v1/webhooks/livekit"
const askPath = "/api/v1/webhooks/livekit/sip-inbound"
const adminToken = "the-token-of-the-operator"

describe.each(runtimes)("beyond capacity, on %s", (runtime) => {
  let database: PostgresDatabase
  let line: Forwarder
  let worker: SampleWorker
  let service: Service

  beforeAll(async () => {
    database = await makePostgresDatabase()
    const url = new URL(database.url)
    line = await startForwarder({ host: url.hostname, port: Number(url.port) })
    url.port = String(line.port)
    worker = await startWorker()
    worker.behaviour.health = { status: 200, body: { status: "ok", active_calls: 0, max_calls: 10_000 } }
    service = await startService(
      {
        DATABASE_URL: url.href,
        CORE_FLEET: worker.url,
        MAX_IN_WORK: "4",
        RATE_LIMIT_PER_MINUTE: "4",
        TRUSTED_PROXIES: "127.0.0.1",
        ADMIN_TOKEN: adminToken,
      },
      runtime,
    )
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  })
  afterAll(async () => {
    await service?.stop("SIGKILL")
    await line?.cut().catch(() => {})
    await worker?.stop()
    await database?.drop()
  })

  interface Sending {
    readonly path?: string
    readonly from?: string
    readonly secret?: string
    readonly signal?: AbortSignal
  }
  const send = async (
    body: unknown,
    { from = "192.0.2.1", path = dispatchPath, secret, signal }: Sending = {},
  ) => {
    const bytes = toBytes(body)
    const response = await fetch(service.url + path, {
      method: "POST",
      headers: {
        authorization: makeToken(bytes, secret === undefined ? {} : { secret }),
        "x-forwarded-for": from,
      },
      body: bytes,
      signal: signal ?? null,
    })
    return {
      status: response.status,
      retryAfter: response.headers.get("retry-after"),
      replayed: response.headers.has("switchhook-replayed"),
      json: JSON.parse(await response.text()) as Record<string, unknown>,
    }
  }
  const garbage = (from: string) => send(joinEvent(), { from, secret: "not the secret at all" })
  const track = () => joinEvent({ event: { event: "track_published" } })
  const inRoom = (event: string, name = `call-${crypto.randomUUID()}`) => ({
    event,
    id: `EV_${crypto.randomUUID()}`,
    createdAt: String(Math.floor(Date.now() / 1_000)),
    room: { sid: `RM_${crypto.randomUUID()}`, name },
  })
  const agentJoin = () => joinEvent({ attributes: {}, participant: { identity: "agent", kind: "AGENT" } })
  const question = () => ({
    call_id: crypto.randomUUID(),
    from_number: "+15551230001",
    to_number: "+18588796658",
  })
  const admin = async () => {
    const response = await fetch(`${service.url}/api/v1/admin/tenants`, {
      headers: { authorization: `Bearer ${adminToken}` },
    })
    return {
      status: response.status,
      retryAfter: response.headers.get("retry-after"),
      json: await response.json(),
    }
  }

  const gauge = async (name: string) => {
    const { text } = await service.get("/metrics")
    return Number(
      text
        .split("\n")
        .find((metric) => metric.startsWith(`${name} `))
        ?.split(" ")[1] ?? 0,
    )
  }
  const inWork = (count: number) =>
    eventually(`${count} in work`, async () => (await gauge("switchhook_in_work")) === count)
  const idOf = ({ participant }: JoinEvent) => participant.attributes["sip.callID"] ?? ""
  const seen = (join: JoinEvent) => seenByCall(worker).get(idOf(join)) ?? 0

  /** Makes the claims of these wait while the test runs: much less long than it takes to be given up. */
  const whileRoomsAreLocked = async (joins: ReadonlyArray<JoinEvent>, test: () => Promise<void>) => {
    const client = new pg.Client({ connectionString: database.url })
    await client.connect()
    try {
      await client.query("BEGIN")
      await client.query("SELECT lock_room(key) FROM unnest($1::text[]) key", [
        joins.map(({ room }) => room.sid),
      ])
      await test()
    } finally {
      await client.end()
    }
  }

  const overloaded = {
    status: 503,
    retryAfter: null,
    json: { type: "about:blank", title: "Service Unavailable", status: 503, detail: "Overloaded" },
  }

  it("unsigned requests are turned away first, then what only records, and calls last, none for long", async () => {
    for (let time = 0; time < 3; time++) expect((await garbage("203.0.113.9")).status).toBe(401)
    const joins = Array.from({ length: 5 }, () => joinEvent())
    const waiting: Array<ReturnType<typeof send>> = []
    const arrive = async (join: JoinEvent) => {
      waiting.push(send(join))
      await inWork(waiting.length)
    }
    const shed = [inRoom("room_finished"), agentJoin(), inRoom("room_started", "no call")]
    // What it consists of is loaded with its first request.
    expect((await admin()).status).toBe(200)

    await whileRoomsAreLocked(joins, async () => {
      for (const join of joins.slice(0, 2)) await arrive(join)
      const [suspect, stranger, told] = await Promise.all([
        garbage("203.0.113.9"),
        garbage("203.0.113.10"),
        send(track(), { path: eventsPath }),
      ])
      expect(suspect).toMatchObject(overloaded)
      expect(stranger.status).toBe(401)
      expect(told.status).toBe(200)

      await arrive(joins[2]!)
      const [session, ...refused] = await Promise.all([
        send(track(), { path: sessionsPath }),
        send(inRoom("room_started"), { path: eventsPath }),
        admin(),
        ...shed.map((event) => send(event)),
      ])
      expect(session).toMatchObject({
        status: 503,
        retryAfter: null,
        json: { success: false, errcode: "E_WEBHOOK_UNAVAILABLE", errmesg: "Overloaded" },
      })
      expect(refused).toMatchObject(refused.map(() => overloaded))
      // LiveKit would hold back what comes after it in the room; and nothing is done for the others but to answer.
      expect((await send(inRoom("room_started"))).status).toBe(200)
      const others = [track(), joinEvent({ participant: { kind: "EGRESS" } })]
      const passedBy = await Promise.all(others.map((event) => send(event)))
      expect(passedBy.map(({ status }) => status)).toEqual([200, 200])

      await arrive(joins[3]!)
      const calls = await Promise.all([send(joins[4]), send(question(), { path: askPath })])
      expect(calls).toMatchObject([overloaded, overloaded])
      const [healthz, { status, text }] = await Promise.all([service.get("/healthz"), service.get("/readyz")])
      expect(healthz.status).toBe(200)
      expect([status, JSON.parse(text)]).toEqual([
        200,
        { status: "ready", reasons: [], shedding: ["unsigned", "record", "admin", "call"] },
      ])
    })

    for (const answered of await Promise.all(waiting))
      expect(answered).toMatchObject({ status: 200, replayed: false, json: { ok: true } })
    expect(await send(joins[4])).toMatchObject({ status: 200, replayed: false })
    for (const event of shed) expect((await send(event)).status).toBe(200)
    expect((await admin()).status).toBe(200)
    expect(joins.map(seen)).toEqual(joins.map(() => 1))
    await inWork(0)
    for (const kind of ["unsigned", "record", "admin", "call"])
      expect(await gauge(`switchhook_shed_total{kind="${kind}"}`)).toBeGreaterThan(0)
    expect(service.log.filter(({ message }) => message === "Shedding load")).toHaveLength(1)
  })

  it("whoever hangs up leaves no place taken, and the call goes on", async () => {
    const join = joinEvent()
    await whileRoomsAreLocked([join], async () => {
      const gone = new AbortController()
      const hungUp = send(join, { signal: gone.signal }).catch(() => "gone")
      await inWork(1)
      gone.abort()
      expect(await hungUp).toBe("gone")
      // The claim goes on for nobody, and is in work.
      await inWork(1)
    })
    await inWork(0)
    await eventually("the worker has it", () => seen(join) === 1)
    expect(await send(join)).toMatchObject({ status: 200, replayed: true })
  })

  it("the time that workers and slow senders take leaves room for others", async () => {
    const slow = await Promise.all(Array.from({ length: 6 }, () => open(service.url)))
    for (const { socket } of slow) {
      socket.write(
        `POST ${dispatchPath} HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nContent-Length: 100\r\n\r\n{`,
      )
    }
    const answer = Promise.withResolvers<void>()
    worker.behaviour.dispatch = async (request, response) => {
      await answer.promise
      respond(200, { ok: true })(request, response)
    }
    const held: Array<ReturnType<typeof send>> = []
    const joins = Array.from({ length: 6 }, () => joinEvent())
    for (const join of joins) {
      held.push(send(join), send(join))
      await eventually("the worker is asked", () => seen(join) === 1)
      await inWork(0)
    }
    answer.resolve()
    worker.behaviour.dispatch = respond(200, { ok: true })
    expect((await Promise.all(held)).map(({ status }) => status)).toEqual(held.map(() => 200))
    expect(joins.map(seen)).toEqual(joins.map(() => 1))
    for (const { socket } of slow) socket.destroy()
    await inWork(0)
  })

  it("a database that is away turns no call away, and fills nothing", async () => {
    await line.cut()
    const joins = Array.from({ length: 8 }, () => joinEvent())
    for (const join of joins) expect((await send(join)).status).toBe(200)
    await inWork(0)
    await line.restore()
    expect(joins.map(seen)).toEqual(joins.map(() => 1))
  })
})
