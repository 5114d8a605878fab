// Who wants too much time, size or number, who speaks no HTTP, and what can stand in an event that is signed.

import { createHmac, randomBytes } from "node:crypto"
import type { Socket } from "node:net"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { runtimes } from "../support/processes.ts"
import { bodyOf, type Connection, type Heard, open, say } from "../support/raw-http.ts"
import { apiKey, apiSecret, type Service, startService, toBytes } from "../support/service.ts"
import { marked, ofWebhooks, rowsIn, startTap } from "../support/tap.ts"
import { makeToken } from "../support/tokens.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

const dispatchPath = "/api/v1/livekit/webhook"
const askPath = "/api/v1/webhooks/livekit/sip-inbound"
const eventsPath = "/api/v1/webhooks/livekit/events"
const sessionsPath = "/api/v1/webhooks/livekit"
const paths = [dispatchPath, askPath, eventsPath, sessionsPath]

// For those who are slow on purpose; for everybody else far more than a whole request ever takes.
const headersTimeoutMs = 2_000
const requestTimeoutMs = 3_000
// What a machine that is busy otherwise may need beyond.
const marginMs = 10_000

const crlf = "\r\n"
const head = (path: string, headers: ReadonlyArray<string>, line = `POST ${path} HTTP/1.1`) =>
  [line, "Host: switchhook", ...headers, "", ""].join(crlf)
const chunked = (body: string) =>
  `${Buffer.byteLength(body).toString(16)}${crlf}${body}${crlf}0${crlf}${crlf}`

const base64url = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url")
const signedBy = (header: unknown, claims: unknown) => {
  const signed = `${base64url(header)}.${base64url(claims)}`
  return `${signed}.${createHmac("sha256", apiSecret).update(signed).digest("base64url")}`
}

let made = 0
const newId = (prefix = "SCL") => `${prefix}_${marked}_${process.pid}_${Date.now()}_${made++}`

describe.each(runtimes)("hostile clients, on %s:", (runtime) => {
  let database: PostgresDatabase
  let worker: SampleWorker
  let tap: Awaited<ReturnType<typeof startTap>>
  let service: Service
  const statuses: Array<number> = []

  const start = async (headersTimeout: string, requestTimeout: string) => {
    const real = new URL(database.url)
    real.port = String(tap.port)
    const started = await startService(
      {
        DATABASE_URL: real.href,
        CORE_FLEET: worker.url,
        RATE_LIMIT_PER_MINUTE: "1000000",
        HEADERS_TIMEOUT: headersTimeout,
        REQUEST_TIMEOUT: requestTimeout,
        MAX_BODIES_SIZE: "1 MiB",
        MAX_CONNECTIONS_PER_SOURCE: "1100",
      },
      runtime,
    )
    await eventually("ready", async () => (await started.get("/readyz")).status === 200)
    return started
  }

  beforeAll(async () => {
    database = await makePostgresDatabase()
    worker = await startWorker()
    worker.behaviour.health = { status: 200, body: {} }
    const real = new URL(database.url)
    tap = await startTap({ host: real.hostname, port: Number(real.port) })
    service = await start("10 s", "20 s")
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await tap?.close()
    await database?.drop()
  })

  const said = async (...args: Parameters<typeof say> extends [string, ...infer Rest] ? Rest : never) => {
    const heard = await say(service.url, ...args)
    statuses.push(...heard.statuses)
    return heard
  }
  const ringOnce = async (body: unknown, path: string, authorization?: string) => {
    const sent = toBytes(body)
    const response = await fetch(service.url + path, {
      method: "POST",
      headers: { authorization: authorization ?? makeToken(sent) },
      body: sent,
    })
    return {
      status: response.status,
      text: await response.text(),
      replayed: response.headers.get("switchhook-replayed") === "true",
    }
  }
  // On a machine that is busy with something else a service sheds load, whatever it is sent, has not heard from the
  // worker, or, where it is in a hurry, not all of the request. LiveKit tries again.
  const ring = async (body: unknown, path = dispatchPath, authorization?: string) => {
    const answered = await eventually(
      "an answer that is about the request",
      async () => {
        const once = await ringOnce(body, path, authorization)
        const isOtherwise =
          once.status === 408 || (once.status === 503 && /Overloaded|No healthy fleet/.test(once.text))
        return isOtherwise ? undefined : once
      },
      20_000,
    )
    statuses.push(answered.status)
    return answered
  }
  const callGoesThrough = async () => {
    const callId = newId()
    const answered = await ring(joinEvent({ callId }))
    expect([answered.status, answered.replayed]).toEqual([200, false])
    expect(worker.seen.filter(({ body }) => body["call_id"] === callId)).toHaveLength(1)
  }
  const expectUnharmed = async () => {
    await callGoesThrough()
    expect(service.process.exitCode).toBeNull()
    expect(service.log.filter(({ message }) => message === "Unexpected failure")).toEqual([])
  }
  const count = async (reason: string) => {
    const { text } = await service.get("/metrics")
    const line = text
      .split("\n")
      .find((one) => one.startsWith(`switchhook_refused_total{reason="${reason}"}`))
    return Number(line?.split(" ")[1] ?? 0)
  }
  /** What is between two looks at the metric. */
  const counting = async (reason: string, work: () => Promise<unknown>) => {
    const before = await count(reason)
    await work()
    return (await count(reason)) - before
  }
  const expectProblem = (heard: Heard, status: number, detail: string) => {
    expect(heard.statuses).toEqual([status])
    expect(heard.text).toMatch(/content-type: application\/problem\+json\r\n/i)
    expect(heard.text).toMatch(/connection: close\r\n/i)
    expect(bodyOf(heard)).toEqual({ type: "about:blank", title: expect.any(String), status, detail })
    expect(heard.closed).toBe(true)
  }
  /** A valid request for a call, and whether anybody has acted on it. */
  const wanted = (headers: ReadonlyArray<string> = []) => {
    const callId = newId("SCL_smuggled")
    const body = JSON.stringify(joinEvent({ callId }))
    const authorization = `Authorization: ${makeToken(toBytes(body))}`
    const length = `Content-Length: ${Buffer.byteLength(body)}`
    return {
      callId,
      body,
      authorization,
      whole: head(dispatchPath, [authorization, length, ...headers]) + body,
      acted: () => worker.seen.filter(({ body }) => body["call_id"] === callId).length,
    }
  }
  const nothingReachesTheDatabase = async (work: () => Promise<unknown>) => {
    const before = await rowsIn(database)
    const mark = tap.mark()
    const seen = worker.seen.length
    await work()
    // Whatever might have been begun beside the answers would be there by now.
    await sleep(100)
    expect(tap.since(mark)).not.toMatch(ofWebhooks)
    expect(await rowsIn(database)).toEqual(before)
    expect(worker.seen.length).toBe(seen)
  }

  describe("too slow", () => {
    let patient: Service
    beforeAll(async () => {
      patient = service
      service = await start(`${headersTimeoutMs / 1000} s`, `${requestTimeoutMs / 1000} s`)
    })
    afterAll(async () => {
      if (service !== patient) await service?.stop()
      service = patient
    })

    const dripping =
      (first: string, drop = "a") =>
      (socket: Socket) => {
        socket.write(first)
        const timer = setInterval(() => socket.write(drop), 100)
        socket.once("close", () => clearInterval(timer))
      }
    const auth = "Authorization: x.y.z"
    const slow: ReadonlyArray<readonly [string, number, (socket: Socket) => unknown]> = [
      ["nothing at all", headersTimeoutMs, () => {}],
      ["headers", headersTimeoutMs, dripping(`POST ${dispatchPath} HTTP/1.1\r\nHost: x\r\nX-Slow: `)],
      ["a body", requestTimeoutMs, dripping(head(dispatchPath, [auth, "Content-Length: 1000"]))],
      ["a large body", requestTimeoutMs, dripping(head(dispatchPath, [auth, "Content-Length: 500000"]))],
      [
        "a chunked body",
        requestTimeoutMs,
        dripping(head(dispatchPath, [auth, "Transfer-Encoding: chunked"]), "1\r\na\r\n"),
      ],
      [
        "a body after asking for an upgrade",
        requestTimeoutMs,
        dripping(head(dispatchPath, [auth, "Connection: Upgrade", "Upgrade: x", "Content-Length: 1000"])),
      ],
    ]

    it("gets 408 and is closed, and its body is not waited for once it has another answer", async () => {
      let heard: ReadonlyArray<Heard> = []
      const timeouts = await counting("timeout", async () => {
        const unauthorized = said(dripping(head(dispatchPath, ["Content-Length: 1000"])), {
          withinMs: requestTimeoutMs + marginMs,
        })
        const all = Promise.all(slow.map(([, limit, talk]) => said(talk, { withinMs: limit + marginMs })))
        await callGoesThrough()
        heard = await all
        const { closed, statuses, text } = await unauthorized
        expect([statuses, closed, text]).toEqual([[401], true, expect.stringContaining("Missing auth")])
      })
      heard.forEach((one, at) => {
        expectProblem(one, 408, "The request took too long")
        const limit = slow[at]?.[1] ?? 0
        expect(one.tookMs, slow[at]?.[0]).toBeGreaterThan(limit - 100)
      })
      expect(timeouts).toBeGreaterThanOrEqual(slow.length)
      await expectUnharmed()
    })
  })

  describe("too many", () => {
    it("idle connections stop no call, and more than one source may have are closed without a word", async () => {
      const connections: Array<Connection> = []
      const idle = async () => {
        const connection = await open(service.url)
        connections.push(connection)
        connection.socket.write(head("/healthz", [], "GET /healthz HTTP/1.1"))
      }
      const upTo = async (many: number) => {
        while (connections.length < many) await Promise.all(Array.from({ length: 50 }, idle))
      }
      try {
        await upTo(1_000)
        await eventually("all are answered", () => connections.every(({ text }) => text() !== ""))
        for (let calls = 0; calls < 5; calls++) await callGoesThrough()
        const closed = () => connections.filter(({ isClosed, text }) => isClosed() && text() === "").length
        const refused = await counting("source-connections", async () => {
          await upTo(1_200)
          await eventually("the others are closed", () => closed() >= 100)
        })
        expect(refused).toBeGreaterThanOrEqual(100)
        expect(connections.slice(0, 1_000).some(({ isClosed }) => isClosed())).toBe(false)
      } finally {
        for (const { socket } of connections) socket.destroy()
      }
      await eventually(
        "there is room again",
        async () =>
          (await say(service.url, head("/healthz", [], "GET /healthz HTTP/1.1"), { answers: 1 }))
            .statuses[0] === 200,
      )
      await callGoesThrough()
      const told = service.log.filter(({ message }) => message === "Connection refused")
      expect(told[0]).toMatchObject({ level: "warn", limit: "source-connections" })
      expect(told.length).toBeLessThan(30)
    })
  })

  describe("too large", () => {
    it.each<[string, () => string]>([
      ["one header", () => head(dispatchPath, [`X-Large: ${"a".repeat(50_000)}`, "Content-Length: 0"])],
      ["the path", () => head(`${dispatchPath}?${"a".repeat(50_000)}`, ["Content-Length: 0"])],
      ["a token of a megabyte", () => head(dispatchPath, [`Authorization: ${"a".repeat(1 << 20)}`])],
      [
        "a token with claims of a megabyte",
        () =>
          head(dispatchPath, [
            `Authorization: ${signedBy({ alg: "HS256" }, { iss: apiKey, x: "a".repeat(1 << 20) })}`,
          ]),
      ],
    ])("%s is answered 431", async (_, request) => {
      const refused = await counting("headers", async () =>
        expectProblem(await said(request()), 431, "The headers are too large"),
      )
      expect(refused).toBe(1)
    })

    it.each([101, 500, 1_800])(
      "%d headers are answered 431, with the token behind all others",
      async (headers) => {
        const { acted, authorization, body } = wanted()
        const others = Array.from({ length: headers - 3 }, (_, at) => `X${at}:`)
        const length = `Content-Length: ${Buffer.byteLength(body)}`
        const refused = await counting("headers", async () => {
          const heard = await said(head(dispatchPath, [...others, length, authorization]) + body)
          expect([heard.statuses, heard.closed]).toEqual([[431], true])
          expect(bodyOf(heard)).toMatchObject({ status: 431 })
        })
        expect([refused, acted()]).toEqual([1, 0])
      },
    )

    it("a hundred headers are not too many", async () => {
      const { acted, authorization, body } = wanted()
      const others = Array.from({ length: 97 }, (_, at) => `X${at}:`)
      const length = `Content-Length: ${Buffer.byteLength(body)}`
      const heard = await said(head(dispatchPath, [...others, authorization, length]) + body, { answers: 1 })
      expect([heard.statuses, acted()]).toEqual([[200], 1])
    })

    it.each(paths)("a body that is announced so is answered 413 by %s before it comes", async (path) => {
      for (const length of [1024 * 1024 + 1, 99_999_999_999, Number.MAX_SAFE_INTEGER]) {
        const refused = await counting("size", async () => {
          const heard = await said(head(path, ["Authorization: x.y.z", `Content-Length: ${length}`]))
          expect([heard.statuses, heard.closed]).toEqual([[413], true])
          expect(heard.text).toMatch(/connection: close\r\n/i)
          expect(heard.text).toContain(path === sessionsPath ? "E_WEBHOOK_PAYLOAD_TOO_LARGE" : "about:blank")
        })
        expect(refused).toBe(1)
      }
    })

    it.each<[string, string]>([
      ["in large pieces", `10000\r\n${"a".repeat(65_536)}\r\n`],
      ["in crumbs", "1\r\na\r\n".repeat(10_000)],
    ])("a body without end, %s, is answered 413 and not read", async (_, piece) => {
      let written = 0
      const endless = (socket: Socket) => {
        socket.write(head(dispatchPath, ["Authorization: x.y.z", "Transfer-Encoding: chunked"]))
        const more = () => {
          while (!socket.destroyed && socket.write(piece)) written += piece.length
          written += piece.length
        }
        socket.on("drain", more)
        more()
      }
      expectProblem(await said(endless), 413, "Payload too large")
      // What is on its way when the answer comes lies in the buffers of both sides.
      expect(written).toBeLessThan(32 * 1024 * 1024)
    })

    it("bodies that together are, and stay unfinished, are refused, and calls are not", async () => {
      const part = `${(700_000).toString(16)}\r\n${"a".repeat(700_000)}\r\n`
      const begin = head(dispatchPath, ["Authorization: x.y.z", "Transfer-Encoding: chunked"])
      // Either may come first, and then the other one finds no room.
      const first = await eventually("one that holds all there is", async () => {
        const holder = await open(service.url)
        holder.socket.write(begin + part)
        const heard = await say(service.url, begin + part, { withinMs: 500 })
        if (heard.statuses[0] === 429 && !holder.isClosed()) return holder
        holder.socket.destroy()
        return undefined
      })
      const refused = await counting("bodies", async () =>
        expectProblem(await said(begin + part), 429, "Too many large requests at once"),
      )
      expect(refused).toBe(1)
      await callGoesThrough()
      first.socket.destroy()
      const body = JSON.stringify({ event: "room_started", padding: "x".repeat(900_000) })
      await eventually("room again", async () => (await ring(body)).status === 200)
    })
  })

  describe("no HTTP, or nearly", () => {
    const cl = (length: number | string) => `Content-Length: ${length}`
    const te = (coding: string) => `Transfer-Encoding: ${coding}`
    const inner = () => wanted()

    // Each has a valid request for a call where somebody who reads it otherwise would find one.
    const smuggling: ReadonlyArray<readonly [string, (inner: string, auth: string, body: string) => string]> =
      [
        [
          "Content-Length and Transfer-Encoding",
          (inner, auth) => `${head(dispatchPath, [auth, cl(5), te("chunked")])}0\r\n\r\n${inner}`,
        ],
        [
          "Transfer-Encoding and Content-Length",
          (inner, auth) =>
            `${head(dispatchPath, [auth, te("chunked"), cl(inner.length + 5)])}0\r\n\r\n${inner}`,
        ],
        ["two lengths", (inner, auth) => head(dispatchPath, [auth, cl(inner.length), cl(0)]) + inner],
        [
          "the same length twice",
          (_, auth, body) => head(dispatchPath, [auth, cl(body.length), cl(body.length)]) + body,
        ],
        [
          "a list of lengths",
          (_, auth, body) => head(dispatchPath, [auth, cl(`${body.length}, ${body.length}`)]) + body,
        ],
        ["a length with a sign", (_, auth, body) => head(dispatchPath, [auth, cl(`+${body.length}`)]) + body],
        [
          "a length in hex",
          (_, auth, body) => head(dispatchPath, [auth, cl(`0x${body.length.toString(16)}`)]) + body,
        ],
        ["a negative length", (inner, auth) => head(dispatchPath, [auth, cl(-1)]) + inner],
        [
          "a length beyond all numbers",
          (inner, auth) => head(dispatchPath, [auth, cl("9".repeat(30))]) + inner,
        ],
        ["xchunked", (_, auth, body) => head(dispatchPath, [auth, te("xchunked")]) + chunked(body)],
        [
          "chunked, identity",
          (_, auth, body) => head(dispatchPath, [auth, te("chunked, identity")]) + chunked(body),
        ],
        ["identity", (_, auth, body) => head(dispatchPath, [auth, te("identity")]) + body],
        [
          "chunked twice",
          (_, auth, body) => head(dispatchPath, [auth, te("chunked"), te("chunked")]) + chunked(body),
        ],
        [
          "chunked behind a tab",
          (_, auth, body) => head(dispatchPath, [auth, te("\x0bchunked")]) + chunked(body),
        ],
        [
          "a space before the colon of Transfer-Encoding",
          (inner, auth) =>
            `${head(dispatchPath, [auth, "Transfer-Encoding : chunked", cl(5)])}0\r\n\r\n${inner}`,
        ],
        [
          "a space before the colon of Content-Length",
          (inner, auth) => head(dispatchPath, [auth, `Content-Length : ${inner.length}`]) + inner,
        ],
        [
          "bare line feeds",
          (_, auth, body) => head(dispatchPath, [auth, cl(body.length)]).replaceAll(crlf, "\n") + body,
        ],
        [
          "bare line feeds between chunks",
          (_, auth, body) => head(dispatchPath, [auth, te("chunked")]) + chunked(body).replaceAll(crlf, "\n"),
        ],
        [
          "a bare carriage return",
          (_, auth, body) => head(dispatchPath, [`X: y\r${auth}`, cl(body.length)]) + body,
        ],
        [
          "a folded header",
          (_, auth, body) => head(dispatchPath, [`X: y\r\n z`, auth, cl(body.length)]) + body,
        ],
        [
          "a folded Transfer-Encoding",
          (_, auth, body) => head(dispatchPath, [auth, "Transfer-Encoding:\r\n chunked"]) + chunked(body),
        ],
        [
          "a header before the first",
          (_, auth, body) => head(dispatchPath, [auth, cl(body.length)]).replace("Host", " Host") + body,
        ],
        ["NUL in a header", (_, auth, body) => head(dispatchPath, [auth, "X: a\0b", cl(body.length)]) + body],
        [
          "a length that is no chunk's",
          (inner, auth) => `${head(dispatchPath, [auth, te("chunked")])}zz\r\n${inner}`,
        ],
        [
          "a chunk beyond all numbers",
          (inner, auth) => `${head(dispatchPath, [auth, te("chunked")])}${"f".repeat(20)}\r\n${inner}`,
        ],
        [
          "a length among the trailers",
          (inner, auth) =>
            head(dispatchPath, [auth, te("chunked")]) +
            `0\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`,
        ],
        ["HTTP/0.9", (inner) => `POST ${dispatchPath}\r\n\r\n${inner}`],
        [
          "HTTP/1.2",
          (_, auth, body) =>
            head(dispatchPath, [auth, cl(body.length)], `POST ${dispatchPath} HTTP/1.2`) + body,
        ],
        ["HTTP/2", (inner) => `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${inner}`],
        ["TLS", (inner) => `\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03${"\0".repeat(50)}${inner}`],
        ["garbage", (inner) => `${randomBytes(200).toString("base64")}\r\n\r\n${inner}`],
        ["a method of its own", (inner) => `DISPATCH ${dispatchPath} HTTP/1.1\r\nHost: x\r\n\r\n${inner}`],
        [
          "no host",
          (_, auth, body) => head(dispatchPath, [auth, cl(body.length)]).replace("Host", "Ghost") + body,
        ],
        ["two hosts", (_, auth, body) => head(dispatchPath, [auth, "Host: other", cl(body.length)]) + body],
        ["CONNECT", (inner) => `CONNECT switchhook:80 HTTP/1.1\r\nHost: switchhook:80\r\n\r\n${inner}`],
      ]

    it.each(smuggling)("%s is answered 400, once, and nothing in it is acted on", async (_, request) => {
      const { acted, authorization, body, whole } = inner()
      const heard = await said(request(whole, authorization, body))
      expectProblem(heard, 400, expect.any(String) as unknown as string)
      expect(heard.text).not.toMatch(/HPE_|Parse Error|node|deno|\.ts|\bat /i)
      expect(acted()).toBe(0)
    })

    it("all of it is counted", async () => {
      const refused = await counting("malformed", async () => {
        for (const [, request] of smuggling.slice(0, 5)) {
          const { authorization, body, whole } = inner()
          await said(request(whole, authorization, body))
        }
      })
      expect(refused).toBe(5)
    })

    const within: ReadonlyArray<readonly [string, (inner: string) => string, number]> = [
      ["a body of a request without a token", (inner) => head(dispatchPath, [cl(inner.length)]) + inner, 401],
      [
        "a body of a request with a wrong token",
        (inner) => head(dispatchPath, ["Authorization: x.y.z", cl(inner.length)]) + inner,
        401,
      ],
      [
        "a chunk of a request with a wrong token",
        (inner) => head(dispatchPath, ["Authorization: x.y.z", te("chunked")]) + chunked(inner),
        401,
      ],
      ["a body sent to nowhere", (inner) => head("/nowhere", [cl(inner.length)]) + inner, 404],
      [
        "a body of a GET",
        (inner) => head("/healthz", [cl(inner.length)], "GET /healthz HTTP/1.1") + inner,
        200,
      ],
      [
        "a body of a request for an upgrade",
        (inner) =>
          head(dispatchPath, [
            "Connection: Upgrade",
            "Upgrade: h2c",
            "Authorization: x.y.z",
            cl(inner.length),
          ]) + inner,
        401,
      ],
      [
        "a body that is too large",
        (inner) => head(dispatchPath, ["Authorization: x.y.z", cl(2_000_000)]) + inner,
        413,
      ],
      [
        "what follows an expectation that nobody has",
        (inner) => head(dispatchPath, ["Expect: 200-ok", "Authorization: x.y.z", cl(inner.length)]) + inner,
        417,
      ],
    ]

    it("a request within another one is not acted on", async () => {
      await Promise.all(
        within.map(async ([name, request, expected]) => {
          const { acted, whole } = inner()
          const heard = await said((socket: Socket) => {
            socket.write(request(whole), "latin1")
            // Were it acted on, it would be answered, too.
            socket.once("data", () => setTimeout(() => socket.destroy(), 500))
          })
          expect([name, heard.statuses, acted()]).toEqual([name, [expected], 0])
        }),
      )
    })

    it("extensions of chunks without end cost nothing but time", async () => {
      const { acted, authorization, body } = inner()
      const piece = `${body.length.toString(16)};${"a".repeat(100_000)}\r\n${body}\r\n0\r\n\r\n`
      const heard = await said(head(dispatchPath, [authorization, te("chunked")]) + piece, { answers: 1 })
      // Deno reads over them.
      expect(heard.statuses).toEqual([runtime === "node" ? 413 : 200])
      expect(acted()).toBe(runtime === "node" ? 0 : 1)
    })

    it("who waits for 100 Continue gets it, and then the answer", async () => {
      const { acted, authorization, body } = inner()
      const heard = await said(
        (socket: Socket) => {
          socket.write(head(dispatchPath, [authorization, cl(body.length), "Expect: 100-continue"]))
          socket.once("data", () => socket.write(body))
        },
        { answers: 1 },
      )
      expect(heard.text).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 /)
      expect(acted()).toBe(1)
    })

    it("who asks for an upgrade with a call gets an answer to the call", async () => {
      const upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
      const { acted, whole } = wanted([...upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="])
      const heard = await said(whole, { answers: 1 })
      expect([heard.statuses, acted()]).toEqual([[200], 1])
    })

    it("garbage behind a call costs the connection, and not the call", async () => {
      const { acted, whole } = inner()
      const heard = await said(`${whole}GARBAGE\r\n\r\n`)
      expect([heard.statuses[0], heard.closed, acted()]).toEqual([200, true, 1])
    })

    it("who hangs up in the middle leaves nothing behind", async () => {
      const { acted, whole } = inner()
      for (const length of [10, 200, whole.length - 1]) {
        await said((socket: Socket) => socket.end(whole.slice(0, length)), { withinMs: 5_000 })
        await said((socket: Socket) => socket.write(whole.slice(0, length), () => socket.resetAndDestroy()))
      }
      expect(acted()).toBe(0)
      await callGoesThrough()
    })
  })

  describe("tokens that are odd", () => {
    const now = () => Math.floor(Date.now() / 1000)
    const hs256 = { alg: "HS256", typ: "JWT" }
    const sha256Of = (body: Uint8Array) => {
      const [, claims = ""] = makeToken(body).split(".")
      return JSON.parse(Buffer.from(claims, "base64url").toString())
    }
    const forged = (body: Uint8Array, header: object, claims: object = {}) =>
      signedBy({ ...hs256, ...header }, { ...sha256Of(body), ...claims })

    const odd: ReadonlyArray<readonly [string, (body: Uint8Array) => string]> = [
      ["alg none", (body) => makeToken(body, { alg: "none" })],
      ["alg none in capitals", (body) => forged(body, { alg: "NONE" })],
      ["alg HS512", (body) => makeToken(body, { alg: "HS512" })],
      ["alg RS256", (body) => forged(body, { alg: "RS256" })],
      ["alg hs256", (body) => forged(body, { alg: "hs256" })],
      ["no alg", (body) => forged(body, { alg: undefined })],
      ["crit", (body) => forged(body, { crit: ["exp"], exp: 1 })],
      ["b64 false", (body) => forged(body, { b64: false, crit: ["b64"] })],
      [
        "five parts",
        (body) => `${base64url({ alg: "dir", enc: "A256GCM" })}..${base64url("iv")}.${base64url(body)}.x`,
      ],
      ["five parts of a JWS", (body) => `${makeToken(body)}.x.y`],
      ["no exp", (body) => makeToken(body, { claims: { exp: undefined } })],
      ["exp as text", (body) => makeToken(body, { claims: { exp: String(now() + 300) } })],
      ["exp negative", (body) => makeToken(body, { claims: { exp: -1 } })],
      ["exp hours ago", (body) => makeToken(body, { claims: { nbf: now() - 10_900, exp: now() - 10_800 } })],
      ["nbf in the future", (body) => makeToken(body, { claims: { nbf: now() + 3_600 } })],
      ["another body's hash", () => makeToken(toBytes("{}"))],
      ["another secret", (body) => makeToken(body, { secret: "x".repeat(32) })],
      ["another key", (body) => makeToken(body, { key: "__proto__" })],
      [
        "claims of many kilobytes, unsigned",
        (body) => makeToken(body, { claims: { x: "a".repeat(9_000) }, secret: "x" }),
      ],
      [
        "claims that are nested",
        (body) =>
          `${base64url(hs256)}.${Buffer.from("[".repeat(10_000)).toString("base64url")}.${makeToken(body).split(".")[2]}`,
      ],
    ]

    it.each(paths)("are answered 401 by %s, and nothing reaches the database", async (path) => {
      await nothingReachesTheDatabase(async () => {
        for (const [name, token] of odd) {
          const call = {
            ...joinEvent({ callId: newId() }),
            call_id: newId(),
            from_number: "1",
            to_number: "2",
          }
          const body = toBytes(call)
          const answered = await ring(body, path, token(body))
          expect([name, answered.status]).toEqual([name, 401])
        }
      })
    })

    it.each<[string, object, object]>([
      [
        "a key id and key URLs, which mean nothing",
        { kid: "../../etc/passwd", jku: "http://127.0.0.1:1/", x5u: "x" },
        {},
      ],
      ["an exp in the year 2286", {}, { exp: 9_999_999_999 }],
      ["claims of many kilobytes", {}, { video: { room: "a".repeat(6_000) } }],
    ])("pass with %s", async (_, header, claims) => {
      const body = toBytes(joinEvent({ callId: newId() }))
      expect((await ring(body, dispatchPath, forged(body, header, claims))).status).toBe(200)
    })

    it("and a valid request that is sent again: with its token until that expires, and never handed over twice", async () => {
      const callId = newId()
      const body = toBytes(joinEvent({ callId }))
      const token = makeToken(body)
      expect(await ring(body, dispatchPath, token)).toMatchObject({ status: 200, replayed: false })
      expect(await ring(body, dispatchPath, token)).toMatchObject({ status: 200, replayed: true })
      const expired = makeToken(body, {
        claims: { nbf: now() - 10_900, iat: now() - 10_900, exp: now() - 10_600 },
      })
      await nothingReachesTheDatabase(async () => {
        expect((await ring(body, dispatchPath, expired)).status).toBe(401)
        const other = toBytes(joinEvent({ callId: newId() }))
        expect((await ring(other, dispatchPath, token)).status).toBe(401)
      })
      expect(await ring(body)).toMatchObject({ status: 200, replayed: true })
      expect(worker.seen.filter(({ body }) => body["call_id"] === callId)).toHaveLength(1)
    })
  })

  describe("signed events that are odd", () => {
    const text = (event: unknown) => JSON.stringify(event)
    /** The event as text, with `"<what>"` replaced by JSON that no object would give. */
    const withJson = (event: unknown, what: string, json: string) =>
      text(event).replaceAll(`"${what}"`, () => json)
    const hole = "put-it-here"
    const arrays = "[".repeat(100_000) + "]".repeat(100_000)
    const objects = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`
    const join = (parts: Parameters<typeof joinEvent>[0] = {}) => joinEvent({ callId: newId(), ...parts })

    /** What may be no event at all; every URL has to say so, or take it. */
    const bodies: ReadonlyArray<readonly [string, () => string]> = [
      ["arrays 100,000 deep", () => arrays],
      ["objects 100,000 deep", () => objects],
      ["arrays 100,000 deep as the room", () => withJson(join({ event: { room: hole } }), hole, arrays)],
      [
        "objects 100,000 deep as an unknown field",
        () => withJson(join({ event: { unknown: hole } }), hole, objects),
      ],
      ["arrays 100,000 deep as the event", () => withJson(join({ event: { event: hole } }), hole, arrays)],
      ["the event __proto__", () => text(join({ event: { event: "__proto__" } }))],
      ["the event constructor", () => text(join({ event: { event: "constructor" } }))],
      ["the event toString", () => text(join({ event: { event: "toString" } }))],
      ["an event with NUL", () => text(join({ event: { event: "participant_joined\0" } }))],
      ["a megabyte as the event", () => text({ event: "e".repeat(900_000), room: { name: "call-1" } })],
      [
        "prototypes instead of objects",
        () => `{"__proto__":{"event":"participant_joined"},"constructor":{"prototype":{"event":"x"}}}`,
      ],
      [
        "a participant that is a prototype",
        () =>
          withJson(
            join({ event: { participant: hole } }),
            hole,
            '{"__proto__":{"kind":"SIP","identity":"x"}}',
          ),
      ],
      ["the kind constructor", () => text(join({ participant: { kind: "constructor" } }))],
      [
        "the reason __proto__",
        () =>
          text(
            join({ event: { event: "participant_left" }, participant: { disconnectReason: "__proto__" } }),
          ),
      ],
      [
        "1e400 for every time",
        () =>
          withJson(
            join({
              event: { createdAt: hole },
              participant: { joinedAt: hole, joinedAtMs: hole },
              room: { creationTime: hole },
            }),
            hole,
            "1e400",
          ),
      ],
      ["half a number", () => withJson(join({ event: { createdAt: hole } }), hole, "-")],
    ]

    it.each(bodies)("%s: 200 or 400 from every URL", async (_, body) => {
      for (const path of paths) expect([200, 400]).toContain((await ring(body(), path)).status)
    })

    interface Odd {
      readonly join?: Parameters<typeof joinEvent>[0]
      /** JSON for what the join has as `put-it-here`. */
      readonly json?: string
      /** JSON to put before the end of the whole. */
      readonly more?: string
    }
    const attributes = (more: Record<string, string>) => ({
      "sip.callID": newId(),
      "sip.trunkID": "ST_in",
      "sip.ruleID": "SDR_1",
      "sip.phoneNumber": "+15551234567",
      "sip.trunkPhoneNumber": "+15557654321",
      ...more,
    })
    const times = (time: unknown) => ({
      event: { createdAt: time },
      room: { sid: newId("RM"), name: `call-${newId()}`, creationTime: time, creationTimeMs: time },
      participant: { joinedAt: time, joinedAtMs: time },
    })
    const everywhere = (odd: string) => ({
      attributes: attributes({
        "sip.callID": `${newId()}${odd}`,
        "sip.callIDFull": `${newId()}${odd}`,
        "sip.trunkID": `ST${odd}`,
        "sip.ruleID": `SDR${odd}`,
        "sip.phoneNumber": `+1555${odd}1234567`,
        "sip.trunkPhoneNumber": `+1555${odd}7654321`,
        [`x${odd}`]: odd,
      }),
      room: { sid: `${newId("RM")}${odd}`, name: `call-${newId()}${odd}` },
      participant: { sid: `${newId("PA")}${odd}`, identity: `sip_${odd}`, name: odd },
      event: { id: `${newId("EV")}${odd}` },
    })
    const controls = Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)).join("")

    /** A caller who is really there, whatever else the event holds. */
    const calls: ReadonlyArray<readonly [string, () => Odd]> = [
      [
        "prototype keys among the attributes",
        () => ({
          join: { attributes: attributes({ constructor: "x", toString: "y", hasOwnProperty: "z" }) },
        }),
      ],
      [
        "__proto__ as an attribute",
        () => ({ join: { attributes: attributes({ [hole]: "x" }) }, json: '"__proto__"' }),
      ],
      [
        "prototype keys everywhere",
        () => ({ more: ',"__proto__":{"event":"x"},"constructor":{},"toString":1,"hasOwnProperty":null' }),
      ],
      [
        "a call called __proto__",
        () => ({
          join: {
            attributes: attributes({ "sip.callID": "__proto__" }),
            room: { sid: "constructor", name: "call-toString" },
            participant: { sid: "__proto__", identity: "constructor" },
          },
        }),
      ],
      [
        "100,000 attributes",
        () => ({
          join: {
            attributes: {
              ...Object.fromEntries(Array.from({ length: 100_000 }, (_, at) => [at.toString(36), ""])),
              ...attributes({}),
            },
          },
        }),
      ],
      [
        "a call id of 900,000 characters",
        () => ({ join: { attributes: attributes({ "sip.callID": `${newId()}${"c".repeat(900_000)}` }) } }),
      ],
      [
        "a full call id of 500,000 characters",
        () => ({
          join: {
            attributes: attributes({ "sip.callIDFull": `${newId()}${randomBytes(250_000).toString("hex")}` }),
          },
        }),
      ],
      [
        "a call id of 100,000 random characters",
        () => ({
          join: {
            attributes: attributes({ "sip.callID": `${newId()}${randomBytes(50_000).toString("hex")}` }),
          },
        }),
      ],
      [
        "numbers of 100,000 digits",
        () => ({
          join: {
            attributes: attributes({
              "sip.phoneNumber": `+1${"5".repeat(100_000)}`,
              "sip.calledNumber": `+1${"7".repeat(100_000)}`,
            }),
          },
        }),
      ],
      [
        "a room of 200,000 random characters",
        () => ({
          join: { room: { sid: newId("RM"), name: `call-${randomBytes(100_000).toString("hex")}` } },
        }),
      ],
      [
        "a room id of 200,000 random characters",
        () => ({
          join: {
            room: { sid: `${newId("RM")}${randomBytes(100_000).toString("hex")}`, name: `call-${newId()}` },
          },
        }),
      ],
      [
        "an identity of 200,000 random characters",
        () => ({ join: { participant: { identity: `sip_${randomBytes(100_000).toString("hex")}` } } }),
      ],
      [
        "a participant id of 200,000 random characters",
        () => ({ join: { participant: { sid: randomBytes(100_000).toString("hex") } } }),
      ],
      [
        "a trunk of 200,000 random characters",
        () => ({ join: { attributes: attributes({ "sip.trunkID": randomBytes(100_000).toString("hex") }) } }),
      ],
      [
        "an event id of 200,000 random characters",
        () => ({ join: { event: { id: randomBytes(100_000).toString("hex") } } }),
      ],
      [
        "no call id, and long names instead",
        () => ({
          join: {
            attributes: { "sip.ruleID": "SDR_1" },
            room: { sid: "", name: `call-${randomBytes(100_000).toString("hex")}` },
            participant: { identity: `sip_${randomBytes(50_000).toString("hex")}` },
          },
        }),
      ],
      ["NUL everywhere", () => ({ join: everywhere("\0") })],
      [
        "NUL as a number",
        () => ({
          join: { attributes: attributes({ "sip.phoneNumber": "\0", "sip.trunkPhoneNumber": "\0\0" }) },
        }),
      ],
      ["control characters everywhere", () => ({ join: everywhere(controls) })],
      ["lone surrogates everywhere", () => ({ join: everywhere("\ud800x\udfff\udfff\ud800") })],
      ["characters that are none", () => ({ join: everywhere("\ufffe\uffff\u2028\u202e\ufeff") })],
      ["line feeds that end a header", () => ({ join: everywhere("\r\nX-CXB-Core-Secret: stolen\r\n\r\n") })],
      ["quotes and statements", () => ({ join: everywhere(`'; DROP TABLE calls; --"\\`) })],
      ["1e400 for every time", () => ({ join: times(hole), json: "1e400" })],
      ["-0 for every time", () => ({ join: times(hole), json: "-0" })],
      ["99999999999999999999 for every time", () => ({ join: times(hole), json: "99999999999999999999" })],
      [
        "the largest number for every time",
        () => ({ join: times(hole), json: String(Number.MAX_SAFE_INTEGER) }),
      ],
      ["the largest number as text for every time", () => ({ join: times(String(Number.MAX_SAFE_INTEGER)) })],
      ["9e15 for every time", () => ({ join: times(hole), json: "9e15" })],
      ["times that are texts of something else", () => ({ join: times("soon") })],
      [
        "every key twice",
        () => ({
          join: { event: { id: hole } },
          json: '"EV_1","id":"EV_2","event":"room_started","event":"participant_joined"',
        }),
      ],
    ]

    it.each(calls)("%s: the call goes through, and is in the call log", async (_, make) => {
      const { join: parts = {}, json, more = "" } = make()
      const event = join(parts)
      const whole = json === undefined ? text(event) : withJson(event, hole, json)
      const body = `${whole.slice(0, -1)}${more}}`
      const before = worker.seen.length
      const answered = await ring(body)
      expect([answered.status, answered.text]).toEqual([200, expect.stringContaining('"ok":true')])
      expect(answered.replayed).toBe(false)
      expect(worker.seen.length).toBe(before + 1)
      const id = worker.seen.at(-1)?.headers["idempotency-key"]
      await eventually(
        "the row",
        async () => (await database.query("SELECT 1 FROM calls WHERE id::text = $1", [id])).length === 1,
        20_000,
      )
      // And what becomes of it is told in the same way.
      for (const [name, path] of [
        ["participant_left", eventsPath],
        ["room_finished", sessionsPath],
      ] as const) {
        const told = body.replaceAll('"participant_joined"', `"${name}"`)
        expect((await ring(told, path)).status).toBe(200)
      }
      expect(worker.seen.length).toBe(before + 1)
    })

    it.each<[string, Record<string, unknown>]>([
      [
        "NUL",
        { call_id: "a\0b", from_number: "\0", to_number: "+1555\0", room_name: "call-\0", timestamp: "\0" },
      ],
      [
        "lone surrogates",
        { call_id: "\ud800", from_number: "\udfff", to_number: "\ud800\ud800", room_name: "\udc00" },
      ],
      [
        "huge texts",
        {
          call_id: randomBytes(50_000).toString("hex"),
          from_number: "5".repeat(100_000),
          to_number: "7".repeat(100_000),
          room_name: randomBytes(50_000).toString("hex"),
        },
      ],
      [
        "prototype keys",
        { call_id: "valueOf", from_number: "constructor", to_number: "toString", room_name: "__proto__" },
      ],
      [
        "numbers beyond all numbers",
        { call_id: "x", from_number: "1", to_number: "2", timestamp: Number.MAX_VALUE },
      ],
    ])("a question with %s gets an agent", async (_, question) => {
      const answered = await ring(question, askPath)
      expect([answered.status, JSON.parse(answered.text).agent_name]).toEqual([200, "telephony-agent"])
    })
  })

  it("none of it was answered with a 5xx or was unexpected, the process lives, and a call goes through", async () => {
    await expectUnharmed()
    expect(statuses.filter((status) => status >= 500)).toEqual([])
  })
})
