// Who may call, how often without a signature, and that nobody without one reaches the database.

import { createHmac } from "node:crypto"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { respond } from "../../src/commands/sample-worker.ts"
import { makePostgresDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { runtimes } from "../support/processes.ts"
import { apiSecret, type Service, startService, toBytes } from "../support/service.ts"
import { marked, ofWebhooks, rowsIn, startTap } from "../support/tap.ts"
import { makeToken } from "../support/tokens.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { bytes, startWorker } from "../support/workers.ts"

const dispatchPath = "/api/v1/livekit/webhook"
const askPath = "/api/v1/webhooks/livekit/sip-inbound"
const eventsPath = "/api/v1/webhooks/livekit/events"
const sessionsPath = "/api/v1/webhooks/livekit"
const testPath = "/api/v1/webhooks/test"
const paths = [dispatchPath, askPath, eventsPath, sessionsPath]

const adminToken = "the-token-of-the-operator"

interface Told {
  readonly status: number
  readonly type: string | null
  readonly retryAfter: string | null
  readonly text: string
}

const send = async (
  service: Service,
  path: string,
  body: Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = {},
): Promise<Told> => {
  const response = await fetch(service.url + path, { method: "POST", headers, body })
  return {
    status: response.status,
    type: response.headers.get("content-type"),
    retryAfter: response.headers.get("retry-after"),
    text: await response.text(),
  }
}

let made = 0

/** What the URL takes, as somebody sends it who may. */
const goodBody = (path: string) => {
  const numbers = { from_number: "+15551230001", to_number: "+18588796658" }
  if (path === testPath) return { ...numbers, persist: true }
  const id = `SCL_${marked}_${process.pid}_${Date.now()}_${made++}`
  return path === askPath ? { ...numbers, call_id: id } : joinEvent({ callId: id })
}

const sendSigned = (
  service: Service,
  path: string,
  headers: Record<string, string> = {},
  body: unknown = goodBody(path),
) => {
  const sent = toBytes(body)
  return send(service, path, sent, { authorization: makeToken(sent), ...headers })
}

const sendUnsigned = (service: Service, path: string, headers: Record<string, string> = {}) =>
  send(service, path, toBytes(goodBody(path)), headers)

/** The refusal in the URL's own form: codes from the one for sessions, problem details from the others. */
const expectRefusal = (
  { status, text, type }: Told,
  path: string,
  expected: readonly [status: number, title: string, detail: string, code: string],
) => {
  const [expectedStatus, title, detail, code] = expected
  expect(status).toBe(expectedStatus)
  if (path !== sessionsPath) {
    expect(type).toBe("application/problem+json")
    expect(JSON.parse(text)).toEqual({ type: "about:blank", title, status, detail })
    return
  }
  expect(type).toBe("application/json")
  expect(JSON.parse(text)).toEqual({
    success: false,
    errcode: code,
    erresid: expect.stringMatching(/^[0-9a-z]{10}$/),
    errmesg: detail,
  })
}
const notAllowed = [403, "Forbidden", "Source not allowed", "E_WEBHOOK_SOURCE_NOT_ALLOWED"] as const
const tooMany = [429, "Too Many Requests", "Too many requests", "E_WEBHOOK_RATE_LIMITED"] as const

const refused = async (service: Service, reason: string) => {
  const { text } = await service.get("/metrics")
  const line = text.split("\n").find((one) => one.startsWith(`switchhook_refused_total{reason="${reason}"}`))
  return Number(line?.split(" ")[1] ?? 0)
}

const setUp = async (runtime: (typeof runtimes)[number], env: Record<string, string>) => {
  const database = await makePostgresDatabase()
  const worker = await startWorker()
  const real = new URL(database.url)
  const tap = await startTap({ host: real.hostname, port: Number(real.port) })
  real.port = String(tap.port)
  const service = await startService({ DATABASE_URL: real.href, CORE_FLEET: worker.url, ...env }, runtime)
  await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  const tearDown = async () => {
    await service.stop()
    await worker.stop()
    await tap.close()
    await database.drop()
  }
  return { database, worker, tap, service, tearDown }
}
type Stage = Awaited<ReturnType<typeof setUp>>

describe.each(runtimes)("only those who may send, on %s:", (runtime) => {
  let strict: Stage
  let proxied: Stage

  beforeAll(async () => {
    const ALLOWED_SOURCES = "203.0.113.0/24, 2001:db8:1::/48"
    ;[strict, proxied] = await Promise.all([
      setUp(runtime, { ALLOWED_SOURCES, ADMIN_TOKEN: adminToken }),
      setUp(runtime, {
        ALLOWED_SOURCES,
        TRUSTED_PROXIES: "127.0.0.0/8, 10.0.0.0/8",
        RATE_LIMIT_PER_MINUTE: "1000000",
      }),
    ])
  })
  afterAll(async () => {
    await strict?.tearDown()
    await proxied?.tearDown()
  })

  it.each(paths)("%s refuses any other source, whatever its signature", async (path) => {
    const { service } = strict
    const before = await refused(service, "source")
    expectRefusal(await sendSigned(service, path), path, notAllowed)
    expectRefusal(await sendUnsigned(service, path), path, notAllowed)
    expect(await refused(service, "source")).toBe(before + 2)
  })

  it("a trial is refused to any other source, whatever its token", async () => {
    const told = await sendUnsigned(strict.service, testPath, { authorization: `Bearer ${adminToken}` })
    expectRefusal(told, testPath, notAllowed)
  })

  it.each(paths)("%s does not believe what a source says of itself", async (path) => {
    for (const forwarded of ["203.0.113.7", "203.0.113.7, 203.0.113.8"]) {
      const told = await sendSigned(strict.service, path, { "x-forwarded-for": forwarded })
      expectRefusal(told, path, notAllowed)
    }
  })

  it("a refused source is told neither that it sends too much nor that its signature is wrong", async () => {
    const { service } = strict
    for (let sent = 0; sent < 150; sent++) {
      const told = await sendUnsigned(service, dispatchPath)
      expect([told.status, told.retryAfter]).toEqual([403, null])
    }
  })

  it.each(paths)("%s believes a trusted proxy", async (path) => {
    const { service } = proxied
    for (const forwarded of [
      "203.0.113.7",
      "203.0.113.7:4711",
      "2001:db8:1::7",
      "[2001:db8:1::7]:4711",
      "::ffff:203.0.113.7",
      // From the right, as far as trusted proxies wrote it.
      "198.51.100.1, 203.0.113.7, 10.1.2.3",
    ]) {
      const told = await sendSigned(service, path, { "x-forwarded-for": forwarded })
      expect([forwarded, told.status]).toEqual([forwarded, 200])
    }
  })

  it.each(paths)("%s refuses whom a trusted proxy names, and whom it does not", async (path) => {
    const { service } = proxied
    for (const forwarded of [
      "198.51.100.1",
      "203.0.113.7, 198.51.100.1",
      "203.0.113.7, 198.51.100.1, 10.1.2.3",
      "2001:db8:2::7",
      "unknown",
      "203.0.113.7, unknown",
      "",
    ]) {
      const told = await sendSigned(service, path, { "x-forwarded-for": forwarded })
      expectRefusal(told, path, notAllowed)
      expect(told.retryAfter).toBeNull()
    }
    expectRefusal(await sendSigned(service, path), path, notAllowed)
  })

  it("nothing of a refused source reaches the database or a worker", async () => {
    const { database, service, tap, worker } = strict
    const before = await rowsIn(database)
    const mark = tap.mark()
    for (const path of paths) await sendSigned(service, path)
    expect(tap.since(mark)).not.toMatch(ofWebhooks)
    expect(await rowsIn(database)).toEqual(before)
    expect(worker.seen).toEqual([])
  })

  it("who may not send may still ask how we are", async () => {
    for (const path of ["/healthz", "/readyz", "/metrics", "/api/v1/webhooks/health"]) {
      expect((await strict.service.get(path)).status).toBe(200)
    }
  })
})

describe.each(runtimes)("not too much without a signature, on %s:", (runtime) => {
  let stage: Stage

  beforeAll(async () => {
    // Every test is a source of its own, by what the proxy says.
    stage = await setUp(runtime, {
      RATE_LIMIT_PER_MINUTE: "5",
      TRUSTED_PROXIES: "127.0.0.1",
      ADMIN_TOKEN: adminToken,
    })
  })
  afterAll(async () => {
    await stage?.tearDown()
  })

  let sources = 0
  const newSource = () => ({ "x-forwarded-for": `198.51.100.${++sources}` })
  type From = ReturnType<typeof newSource>

  const expectLimited = (told: Told, path: string) => {
    expectRefusal(told, path, tooMany)
    expect(told.retryAfter).toMatch(/^[1-9]\d*$/)
    expect(Number(told.retryAfter)).toBeLessThanOrEqual(12)
  }
  /** Uses up what the source may send. */
  const exhaust = async (from: From) => {
    for (let sent = 0; sent < 5; sent++) {
      expect((await sendUnsigned(stage.service, dispatchPath, from)).status).toBe(401)
    }
  }
  const hmac = (body: Uint8Array, secret = apiSecret) =>
    createHmac("sha256", secret).update(body).digest("hex")

  it.each(paths)("%s answers the sixth of a minute with 429", async (path) => {
    const from = newSource()
    for (let sent = 0; sent < 5; sent++) {
      const told = await sendUnsigned(stage.service, path, from)
      expect([told.status, told.retryAfter]).toEqual([401, null])
    }
    const before = await refused(stage.service, "rate")
    expectLimited(await sendUnsigned(stage.service, path, from), path)
    expect(await refused(stage.service, "rate")).toBe(before + 1)
    expect((await sendUnsigned(stage.service, path, newSource())).status).toBe(401)
  })

  it("the URLs count together", async () => {
    const from = newSource()
    for (const path of [...paths, dispatchPath]) await sendUnsigned(stage.service, path, from)
    for (const path of paths) expectLimited(await sendUnsigned(stage.service, path, from), path)
  })

  it.each<[string, (path: string, from: From) => Promise<Told>]>([
    ["no signature", (path, from) => sendUnsigned(stage.service, path, from)],
    [
      "another secret's token",
      (path, from) => {
        const body = toBytes(goodBody(path))
        return send(stage.service, path, body, {
          authorization: makeToken(body, { secret: "wrong" }),
          ...from,
        })
      },
    ],
    [
      "the token of another body",
      (path, from) =>
        send(stage.service, path, toBytes(goodBody(path)), {
          authorization: makeToken(toBytes("{}")),
          ...from,
        }),
    ],
    [
      "an expired token",
      (path, from) => {
        const body = toBytes(goodBody(path))
        const exp = Math.floor(Date.now() / 1000) - 120
        return send(stage.service, path, body, {
          authorization: makeToken(body, { claims: { exp } }),
          ...from,
        })
      },
    ],
    [
      "garbage",
      (path, from) => send(stage.service, path, toBytes("\0\0"), { authorization: "garbage", ...from }),
    ],
    [
      "a wrong HMAC, where one will do",
      (_, from) => {
        const body = toBytes(goodBody(askPath))
        return send(stage.service, askPath, body, { "x-livekit-signature": hmac(body, "wrong"), ...from })
      },
    ],
    [
      "more than can be verified",
      (path, from) => sendSigned(stage.service, path, from, { padding: "x".repeat(1024 * 1024 + 1) }),
    ],
  ])("%s counts, and is answered 429 in the end", async (_, sending) => {
    for (const path of [dispatchPath, askPath]) {
      const from = newSource()
      for (let sent = 0; sent < 5; sent++) {
        const told = await sending(path, from)
        expect([401, 413]).toContain(told.status)
        expect(told.retryAfter).toBeNull()
      }
      expectLimited(await sending(path, from), path)
    }
  })

  it("an event that is validly signed is never limited, and never told to come back later", async () => {
    const { service, worker } = stage
    const from = newSource()
    await exhaust(from)
    expectLimited(await sendUnsigned(service, dispatchPath, from), dispatchPath)
    const expectStatus = async (path: string, status: number, body?: unknown) => {
      const told = await sendSigned(service, path, from, body)
      expect([path, told.status, told.retryAfter]).toEqual([path, status, null])
    }
    for (let round = 0; round < 10; round++) for (const path of paths) await expectStatus(path, 200)
    for (const path of paths) await expectStatus(path, 400, "{")
    const asked = toBytes(goodBody(askPath))
    expect(
      (await send(service, askPath, asked, { "x-livekit-signature": hmac(asked), ...from })).status,
    ).toBe(200)
    // Not even where a worker says so.
    worker.behaviour.dispatch = bytes(429, "{}", { "content-type": "application/json", "retry-after": "9" })
    await expectStatus(dispatchPath, 429)
    worker.behaviour.dispatch = bytes(503, "{}", { "content-type": "application/json", "retry-after": "9" })
    await expectStatus(dispatchPath, 503)
    worker.behaviour.dispatch = respond(200, { ok: true })
    await expectStatus(dispatchPath, 200)
    // All of this may have taken as long as it takes until one more is allowed, or some.
    let told = await sendUnsigned(service, dispatchPath, from)
    for (let sent = 1; sent < 6 && told.status === 401; sent++)
      told = await sendUnsigned(service, dispatchPath, from)
    expectLimited(told, dispatchPath)
  })

  it("a signed event does not use up what may be sent without a signature", async () => {
    const { service } = stage
    const from = newSource()
    for (let sent = 0; sent < 10; sent++) await sendSigned(service, eventsPath, from)
    await exhaust(from)
    expectLimited(await sendUnsigned(service, eventsPath, from), eventsPath)
  })

  it("admin tokens can be guessed no faster, and the right one is never limited", async () => {
    const { service } = stage
    const from = newSource()
    const tried = (token: string) =>
      sendUnsigned(service, testPath, { authorization: `Bearer ${token}`, ...from })
    for (let sent = 0; sent < 5; sent++) expect((await tried(`${adminToken}${sent}`)).status).toBe(401)
    expectLimited(await tried(`${adminToken}x`), testPath)
    for (let sent = 0; sent < 3; sent++) expect((await tried(adminToken)).status).toBe(200)
  })

  it("one subscriber of IPv6 is one source", async () => {
    const { service } = stage
    const from = (host: string) => ({ "x-forwarded-for": `2001:db8:5:6:${host}` })
    for (let sent = 0; sent < 5; sent++) await sendUnsigned(service, dispatchPath, from(`${sent}::1`))
    expectLimited(await sendUnsigned(service, dispatchPath, from("ffff::1")), dispatchPath)
    expect((await sendUnsigned(service, dispatchPath, { "x-forwarded-for": "2001:db8:5:7::1" })).status).toBe(
      401,
    )
  })

  it("a source that a stranger writes into the header is not the one that pays for it", async () => {
    const { service } = stage
    const victim = `198.51.100.${++sources}`
    const from = (claimed: string) => ({ "x-forwarded-for": `${claimed}, 192.0.2.66` })
    for (let sent = 0; sent < 5; sent++) await sendUnsigned(service, dispatchPath, from(victim))
    expectLimited(await sendUnsigned(service, dispatchPath, from("192.0.2.1")), dispatchPath)
    expect((await sendUnsigned(service, dispatchPath, { "x-forwarded-for": victim })).status).toBe(401)
  })

  it("health and metrics are not counted", async () => {
    const from = newSource()
    const get = (path: string) => fetch(stage.service.url + path, { headers: from })
    for (let sent = 0; sent < 10; sent++) {
      for (const path of ["/healthz", "/metrics", "/api/v1/webhooks/health"]) {
        const response = await get(path)
        await response.arrayBuffer()
        expect(response.status).toBe(200)
      }
    }
    expect((await sendUnsigned(stage.service, dispatchPath, from)).status).toBe(401)
  })

  it("nothing unsigned reaches the database or a worker", async () => {
    const { database, service, tap, worker } = stage
    const seen = worker.seen.length
    const before = await rowsIn(database)
    const mark = tap.mark()
    const from = newSource()
    for (let round = 0; round < 3; round++) {
      for (const path of [...paths, testPath]) {
        await sendUnsigned(service, path, newSource())
        await sendUnsigned(service, path, from)
        const body = toBytes(goodBody(path))
        await send(service, path, body, {
          authorization: makeToken(body, { secret: "wrong" }),
          ...newSource(),
        })
        await send(service, path, body, { "x-livekit-signature": hmac(body, "wrong"), ...newSource() })
      }
    }
    // Whatever it might have begun beside its answers would be there by now.
    await sleep(200)
    expect(tap.since(mark)).not.toMatch(ofWebhooks)
    expect(await rowsIn(database)).toEqual(before)
    expect(worker.seen.length).toBe(seen)
    // And what is signed would have been seen.
    await sendSigned(service, eventsPath)
    expect(tap.since(mark)).toMatch(ofWebhooks)
    expect(await rowsIn(database)).not.toEqual(before)
  })
})

describe.each(runtimes)("with SIP_INBOUND_UNSIGNED, on %s,", (runtime) => {
  let stage: Stage

  beforeAll(async () => {
    stage = await setUp(runtime, {
      RATE_LIMIT_PER_MINUTE: "5",
      TRUSTED_PROXIES: "127.0.0.1",
      SIP_INBOUND_UNSIGNED: "true",
    })
  })
  afterAll(async () => {
    await stage?.tearDown()
  })

  it("an unsigned question is answered five times a minute, a signed one always", async () => {
    const { database, service } = stage
    const from = { "x-forwarded-for": "198.51.100.1" }
    for (let sent = 0; sent < 5; sent++) expect((await sendUnsigned(service, askPath, from)).status).toBe(200)
    const before = await rowsIn(database)
    const told = await sendUnsigned(service, askPath, from)
    expectRefusal(told, askPath, tooMany)
    expect(told.retryAfter).toMatch(/^[1-9]\d*$/)
    expect(await rowsIn(database)).toEqual(before)
    const signed = await sendSigned(service, askPath, from)
    expect([signed.status, signed.retryAfter]).toEqual([200, null])
  })

  it("one that is too long counts once", async () => {
    const { service } = stage
    const from = { "x-forwarded-for": "198.51.100.2" }
    const tooLong = toBytes(JSON.stringify({ padding: "x".repeat(1024 * 1024 + 1) }))
    const told = []
    for (let sent = 0; sent < 6; sent++) told.push((await send(service, askPath, tooLong, from)).status)
    expect(told).toEqual([413, 413, 413, 413, 413, 429])
  })

  it("the other URLs take nothing unsigned all the same", async () => {
    for (const path of [dispatchPath, eventsPath, sessionsPath]) {
      const told = await sendUnsigned(stage.service, path, { "x-forwarded-for": "198.51.100.3" })
      expect(told.status).toBe(401)
    }
  })
})
