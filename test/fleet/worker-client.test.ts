// HTTP to a worker over real sockets: what counts as sent, what counts as an answer, which connection is used.

import type { AddressInfo } from "node:net"
import { createServer, type Server, type Socket } from "node:net"
import { Effect, Fiber, Layer, ManagedRuntime } from "effect"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { Settings } from "../../src/config.ts"
import { WorkerClient } from "../../src/fleet/worker-client.ts"
import { coreSecret } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { bytes, cutOff, hangUp, startFreezableWorker, startWorker } from "../support/workers.ts"

const settings = settingsOf({ CXB_CORE_SECRET: coreSecret })
const runtime = ManagedRuntime.make(Layer.provide(WorkerClient.layer, Layer.succeed(Settings, settings)))
afterAll(() => runtime.dispose())

const cleanUps: Array<() => unknown> = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp()
})

const aWorker = async (): Promise<SampleWorker> => {
  const worker = await startWorker()
  cleanUps.push(() => worker.stop())
  return worker
}

/** A server that hands each connection to the test and counts the bytes that come. */
const aSocketServer = async (onConnection: (socket: Socket, count: number) => void) => {
  const state = { connections: 0, bytes: 0 }
  const server = await new Promise<Server>((resolve) => {
    const listening = createServer((socket) => {
      cleanUps.push(() => socket.destroy())
      socket.on("error", () => {})
      socket.on("data", (chunk) => {
        state.bytes += chunk.length
      })
      onConnection(socket, ++state.connections)
    }).listen(0, "127.0.0.1", () => resolve(listening))
  })
  cleanUps.push(() => server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, state }
}

/** Answers everything, and would keep each connection for a minute. */
const aPatientServer = () =>
  aSocketServer((socket) =>
    socket.on("data", () =>
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=60\r\n\r\nok"),
    ),
  )

const request = { room_name: "call-x", caller_number: "+1", dialed_number: "+2", call_id: "SCL_1" }

interface Wanted {
  readonly budgetMs?: number
  readonly mayStart?: () => boolean
}

const dispatching = (url: string, wanted: Wanted = {}) =>
  Effect.flatMap(WorkerClient, (client) =>
    client.dispatch(url, request, {
      idempotencyKey: "key",
      budgetMs: 5_000,
      mayStart: () => true,
      ...wanted,
    }),
  ).pipe(
    Effect.match({ onSuccess: (answer) => ({ _tag: "Answer" as const, ...answer }), onFailure: (e) => e }),
  )

const dispatch = (url: string, wanted?: Wanted) => runtime.runPromise(dispatching(url, wanted))

const health = (url: string) =>
  runtime.runPromise(
    Effect.flatMap(WorkerClient, (client) => client.health(url)).pipe(
      Effect.match({ onSuccess: (report) => report as object, onFailure: (failed) => failed }),
    ),
  )

const text = (body: Uint8Array) => new TextDecoder().decode(body)

describe("nothing was sent", () => {
  it("where the connection is refused", async () => {
    const worker = await aWorker()
    await worker.stop()
    expect(await dispatch(worker.url)).toMatchObject({ _tag: "NothingSent", reason: "refused" })
    await worker.restart()
  })

  it("where the name does not resolve", async () => {
    expect(await dispatch("http://worker.invalid:1")).toMatchObject({ _tag: "NothingSent" })
  })

  it("where the other side speaks no TLS", async () => {
    const { url } = await aSocketServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"))
    expect(await dispatch(url.replace("http:", "https:"))).toMatchObject({ _tag: "NothingSent" })
  })

  it("where connecting takes more than a second", async () => {
    const frozen = await startFreezableWorker()
    cleanUps.push(frozen.stop)
    await frozen.freeze()
    expect(await dispatch(frozen.url)).toMatchObject({ _tag: "NothingSent", reason: "connect timeout" })
    frozen.thaw()
    const later = await eventually("it takes connections again", async () => {
      const again = await dispatch(frozen.url)
      return again._tag === "Answer" ? again : undefined
    })
    // Had one that was given up still arrived, this would not be the first.
    expect(JSON.parse(text(later.body))).toEqual({ seen: 1 })
  })

  it("where the lease had lapsed once connected: not one byte", async () => {
    const { state, url } = await aSocketServer(() => {})
    expect(await dispatch(url, { mayStart: () => false })).toMatchObject({
      _tag: "NothingSent",
      reason: "lease lapsed",
    })
    await sleep(50)
    expect(state).toEqual({ connections: 1, bytes: 0 })
  })

  it("where there is no time left: no connection is made", async () => {
    const { state, url } = await aSocketServer(() => {})
    for (const budgetMs of [0, -5])
      expect(await dispatch(url, { budgetMs })).toMatchObject({ _tag: "NothingSent" })
    await sleep(50)
    expect(state).toEqual({ connections: 0, bytes: 0 })
  })

  it("by whoever gave up before it was connected: the gate is not even asked", async () => {
    const { state, url } = await aSocketServer(() => {})
    let asked = 0
    const mayStart = () => {
      asked++
      return true
    }
    const fiber = runtime.runFork(dispatching(url, { mayStart }))
    await runtime.runPromise(Fiber.interrupt(fiber))
    await eventually("it is connected", () => state.connections === 1)
    await sleep(50)
    expect({ asked, bytes: state.bytes }).toEqual({ asked: 0, bytes: 0 })
  })
})

describe("no answer", () => {
  it("where the worker took the request and dropped the connection", async () => {
    const worker = await aWorker()
    worker.behaviour.dispatch = hangUp
    expect(await dispatch(worker.url)).toMatchObject({ _tag: "NoAnswer" })
    expect(worker.seen).toHaveLength(1)
  })

  it("where the worker accepts and never answers, once the budget is spent", async () => {
    const { state, url } = await aSocketServer(() => {})
    expect(await dispatch(url, { budgetMs: 5_000 })).toMatchObject({ _tag: "NoAnswer" })
    expect(state.bytes).toBeGreaterThan(0)
  })

  it("where what comes back is no HTTP", async () => {
    const { url } = await aSocketServer((socket) =>
      socket.once("data", () => socket.end("SIP/2.0 200 OK\r\n\r\n")),
    )
    expect(await dispatch(url)).toMatchObject({ _tag: "NoAnswer" })
  })

  it("where only a promise of one comes", async () => {
    const { url } = await aSocketServer((socket) =>
      socket.once("data", () => socket.end("HTTP/1.1 102 Processing\r\n\r\n")),
    )
    expect(await dispatch(url)).toMatchObject({ _tag: "NoAnswer" })
  })

  it("for whoever gave up: the connection is closed", async () => {
    let closed = false
    const { state, url } = await aSocketServer((socket) =>
      socket.on("close", () => {
        closed = true
      }),
    )
    const fiber = runtime.runFork(dispatching(url))
    await eventually("it is sent", () => state.bytes > 0)
    await runtime.runPromise(Fiber.interrupt(fiber))
    await eventually("the connection is closed", () => closed)
  })

  it("where the status line is cut off", async () => {
    const { url } = await aSocketServer((socket) => socket.once("data", () => socket.end("HTTP/1.1 20")))
    expect(await dispatch(url)).toMatchObject({ _tag: "NoAnswer" })
  })
})

describe("an answer", () => {
  it("is status, content type and bytes; a redirect is not followed", async () => {
    const worker = await aWorker()
    worker.behaviour.dispatch = bytes(302, "over there", {
      location: `${worker.url}/livekit/dispatch`,
      "content-type": "text/x",
    })
    const answer = await dispatch(worker.url)
    expect(answer).toMatchObject({ _tag: "Answer", status: 302, contentType: "text/x" })
    expect(worker.seen).toHaveLength(1)
  })

  it("is the first that is final, and not what comes before it", async () => {
    const { url } = await aSocketServer((socket) =>
      socket.once("data", () =>
        socket.write(
          "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok",
        ),
      ),
    )
    const answer = await dispatch(url)
    expect(answer._tag === "Answer" && [answer.status, text(answer.body)]).toEqual([201, "ok"])
  })

  it("stands with its status line, though its body is cut off, drips or never ends", async () => {
    const worker = await aWorker()
    worker.behaviour.dispatch = cutOff(200, "beg")
    const cut = await dispatch(worker.url)
    expect(cut._tag === "Answer" && [cut.status, text(cut.body)]).toEqual([200, "beg"])

    worker.behaviour.dispatch = (_, response) => {
      response.writeHead(429, { "content-type": "text/plain" })
      response.write("drip")
    }
    const dripping = await dispatch(worker.url, { budgetMs: 5_000 })
    expect(dripping._tag === "Answer" && [dripping.status, text(dripping.body)]).toEqual([429, "drip"])
  })

  it("holds no memory but its own bytes, however long it is kept", async () => {
    const worker = await aWorker()
    worker.behaviour.dispatch = bytes(200, "small")
    const answer = await dispatch(worker.url)
    expect(answer._tag === "Answer" && [text(answer.body), answer.body.buffer.byteLength]).toEqual([
      "small",
      5,
    ])
  })

  it("of more than 64 KiB is replaced at once, without waiting for the rest", async () => {
    const worker = await aWorker()
    worker.behaviour.dispatch = (_, response) => {
      response.writeHead(200, { "content-type": "text/plain" })
      response.write("x".repeat(70_000))
    }
    const answer = await dispatch(worker.url, { budgetMs: 20_000 })
    expect(answer._tag === "Answer" && [answer.contentType, text(answer.body)]).toEqual([
      "application/json",
      '{"ok":true}',
    ])
  })
})

/** Over one connection, unless the machine stops for so long that it must not be used again. */
const dispatchTwice = async (url: string, state: { readonly connections: number }) => {
  await eventually("twice in a short time", async () => {
    const begunAt = performance.now()
    await dispatch(url)
    const { connections } = state
    await sleep(200)
    await dispatch(url)
    if (performance.now() - begunAt > 1_500) return false
    expect(state.connections).toBe(connections)
    return true
  })
}

it("a connection is used again only within 2 s of what it carried last", async () => {
  const { state, url } = await aPatientServer()
  await dispatchTwice(url, state)
  const before = state.connections
  await sleep(2_100)
  await dispatch(url)
  expect(state.connections).toBe(before + 1)
})

describe("health", () => {
  const silent = { draining: false, activeCalls: undefined, maxCalls: undefined, idempotent: false }

  it.each<[string, number, unknown, object]>([
    [
      "a full report",
      200,
      { status: "draining", active_calls: 3, max_calls: 9, idempotent: true },
      { draining: true, activeCalls: 3, maxCalls: 9, idempotent: true },
    ],
    ["an empty object", 200, {}, silent],
    ["another 2xx", 204, undefined, silent],
    ["a text", 200, "fine", silent],
    [
      "nonsense in every field",
      200,
      { status: 7, active_calls: "3", max_calls: -1, idempotent: "true" },
      silent,
    ],
  ])("is read from %s", async (_, status, body, expected) => {
    const worker = await aWorker()
    worker.behaviour.health = status === 204 ? bytes(204, "", {}) : { status, body }
    expect(await health(worker.url)).toEqual(expected)
  })

  it("that is no 2xx, refused or too slow is a failed probe that says why", async () => {
    const worker = await aWorker()
    worker.behaviour.health = respond(503, {})
    expect(await health(worker.url)).toMatchObject({ why: "answers 503", refused: false })
    worker.behaviour.health = () => {}
    expect(await health(worker.url)).toMatchObject({ why: "no answer within 500 ms", refused: false })
    await worker.stop()
    // The first may still go out on the connection that is just being closed.
    const refused = await eventually("a new connection is tried", async () => {
      const failed = await health(worker.url)
      return "refused" in failed && failed.refused ? failed : undefined
    })
    expect(refused).toMatchObject({ why: "ECONNREFUSED", refused: true })
    await worker.restart()
  })
})

describe("while this process is held up", () => {
  // In a process of its own, the worker answers meanwhile.
  const holdUp = (ms: number) => {
    const until = performance.now() + ms
    while (performance.now() < until);
  }

  it("a connection goes stale, and carries no call", async () => {
    const { state, url } = await aPatientServer()
    await dispatchTwice(url, state)
    const before = state.connections
    await sleep(200)
    holdUp(2_500)
    expect(await dispatch(url)).toMatchObject({ _tag: "Answer", status: 200 })
    expect(state.connections).toBe(before + 1)
  })

  it("a worker is not blamed: the call gets through, and the probe is a good one", async () => {
    const worker = await startFreezableWorker()
    cleanUps.push(worker.stop)
    for (const turn of [1, 2, 3]) {
      const goesWell = async () => {
        const asked = Promise.all([dispatch(worker.url), health(worker.url)])
        // So that both are under way, however far.
        await sleep(turn - 1)
        holdUp(1_500)
        const [given, probed] = await asked
        return given._tag === "Answer" && given.status === 200 && "activeCalls" in probed
      }
      // The worker, too, may have been held up, even after it.
      const tries = [await goesWell()]
      while (!tries.at(-1) && tries.length < 4) tries.push(await goesWell())
      expect([turn, tries]).toEqual([turn, expect.arrayContaining([true])])
    }
  })
})
