// Networks and workers that misbehave on the wire: what becomes of the call, what LiveKit is told, what the fleet does
// about it, and who gets the next call.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join as joinPath } from "node:path"
import { describe, expect, it } from "vitest"
import type { Answered } from "../../src/commands/signing.ts"
import { agedBy, numbers, ring as ringStage, startAgentStage } from "../support/agent-stage.ts"
import { makePostgresDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { fickleName, fickleNamesModule } from "../support/fickle-names.ts"
import { startForwarder } from "../support/forwarder.ts"
import { later } from "../support/livekit-api.ts"
import { runtimes } from "../support/processes.ts"
import { drip, pour, startRawWorker } from "../support/raw-worker.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { seenByCall, slowly, startWorker } from "../support/workers.ts"

interface Row {
  readonly state: string
  readonly attempts: ReadonlyArray<string>
}

type Finished = (run: () => Promise<void>) => void

/** Keeps what a test has made until that test is over; they run side by side, so each says when. */
const keeper =
  (onTestFinished: Finished) =>
  <A>(made: A, end: (made: A) => unknown): A => {
    onTestFinished(async () => {
      await end(made)
    })
    return made
  }
type Keep = ReturnType<typeof keeper>

describe.concurrent.each(runtimes)("on %s", { timeout: 90_000 }, (runtime) => {
  /**
   * The service with two workers: one that all calls go to while it is up, as it reports no load, and a good one that
   * is half full.
   */
  const start = async (
    keep: Keep,
    firstUrl: string,
    env: Record<string, string> = {},
    preload: ReadonlyArray<string> = [],
  ) => {
    const database = keep(await makePostgresDatabase(), ({ drop }) => drop())
    const good = keep(await startWorker(), ({ stop }) => stop())
    good.behaviour.health = { status: 200, body: { active_calls: 50, max_calls: 100 } }
    const fleet = [
      { url: firstUrl, name: "first" },
      { url: good.url, name: "good" },
    ]
    const service = keep(
      await startService({ ...database.env, CORE_FLEET: JSON.stringify(fleet), ...env }, runtime, preload),
      ({ stop }) => stop("SIGKILL"),
    )
    const gauge = async (name: string, worker: string) => {
      const { text } = await service.get("/metrics")
      return new RegExp(`^switchhook_worker_${name}\\{worker="${worker}"\\} (\\d)`, "m").exec(text)?.[1]
    }
    const isUp = async (worker: string) => (await gauge("up", worker)) === "1"
    const becomes = (worker: string, up: boolean) =>
      eventually(`${worker} is ${up ? "up" : "out"}`, async () => (await isUp(worker)) === up)
    await becomes("first", true)
    await becomes("good", true)
    return {
      service,
      good,
      becomes,
      isUp,
      breakerIsOpen: async (worker: string) => (await gauge("breaker_open", worker)) === "1",
      row: async (callId: string): Promise<Row | undefined> => {
        const rows = await database.query<Row>(
          `SELECT c.state, array_agg(a.worker || ' ' || a.outcome ORDER BY a.attempt) AS attempts
           FROM calls c LEFT JOIN dispatch_attempts a ON a.call_id = c.id WHERE c.sip_call_id = $1 GROUP BY c.id`,
          [callId],
        )
        return rows[0]
      },
      seenByGood: (callId: string) => seenByCall(good).get(callId) ?? 0,
    }
  }

  const ring = (service: Service, callId: string): Promise<Answered> => service.ring(joinEvent({ callId }))

  const problem = (status: number, detail: string) => ({
    status,
    replayed: false,
    body: expect.stringContaining(`"detail":"${detail}"`),
  })
  const dispatchFailed = problem(502, "Dispatch failed")
  const replayOf = (outcome: string) => ({
    status: 200,
    replayed: true,
    body: expect.stringContaining(`"outcome":"${outcome}"`),
  })
  const takenBy = (name: string) => ({
    status: 200,
    replayed: false,
    body: JSON.stringify({ ok: true, worker: name }),
  })

  // The relay has 10 s. It must not end before, and a busy machine may be late.
  const expectTenSeconds = ({ tookMs }: Answered) => {
    expect(tookMs).toBeGreaterThan(9_000)
    expect(tookMs).toBeLessThan(15_000)
  }
  const soon = 5_000

  it("a worker that accepts and never reads: nobody knows, after 10 s; the next call goes elsewhere at once", async ({
    onTestFinished,
  }) => {
    const keep = keeper(onTestFinished)
    const deaf = keep(await startRawWorker(), ({ stop }) => stop())
    const { becomes, breakerIsOpen, good, row, seenByGood, service } = await start(keep, deaf.url)
    deaf.deafen()
    const calls = ["SCL_deaf_1", "SCL_deaf_2", "SCL_deaf_3"]
    const unanswered = Promise.all(calls.map((callId) => ring(service, callId)))

    await becomes("first", false)
    const next = await ring(service, "SCL_next")
    expect(next).toMatchObject(takenBy(good.name))
    expect(next.tookMs).toBeLessThan(soon)

    for (const answered of await unanswered) {
      expect(answered).toMatchObject(dispatchFailed)
      expectTenSeconds(answered)
    }
    expect(await breakerIsOpen("first")).toBe(true)
    for (const callId of calls) {
      expect(await ring(service, callId)).toMatchObject(replayOf("ambiguous"))
      expect(await row(callId)).toEqual({ state: "uncertain", attempts: ["first ambiguous"] })
      expect(seenByGood(callId)).toBe(0)
    }
  })

  it("a worker that answers one byte a second: a status line that is whole counts, one that is not never does", async ({
    onTestFinished,
  }) => {
    const keep = keeper(onTestFinished)
    const slow = keep(await startRawWorker(), ({ stop }) => stop())
    slow.conduct = (socket, callId) => {
      if (callId.includes("body")) socket.write("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
      drip(socket, callId.includes("body") ? "x" : "HTTP/1.1 200 OK\r\n")
    }
    const { breakerIsOpen, good, isUp, row, seenByGood, service } = await start(keep, slow.url)
    const body = ring(service, "SCL_body")
    // Later than the body, which counts for the worker when it ends: three failures in a row come after it.
    await sleep(1_500)
    const heads = ["SCL_head_1", "SCL_head_2", "SCL_head_3"]
    const unanswered = Promise.all(heads.map((callId) => ring(service, callId)))

    const answered = await body
    expect(answered).toMatchObject({ status: 200, replayed: false, body: expect.stringMatching(/^x{5,11}$/) })
    expectTenSeconds(answered)
    expect(await isUp("first")).toBe(true)
    for (const each of await unanswered) {
      expect(each).toMatchObject(dispatchFailed)
      expectTenSeconds(each)
    }
    // Its health is as good as ever.
    expect([await breakerIsOpen("first"), await isUp("first")]).toEqual([true, false])
    expect(await ring(service, "SCL_next")).toMatchObject(takenBy(good.name))

    expect(await row("SCL_body")).toEqual({ state: "accepted", attempts: ["first accepted"] })
    expect(await ring(service, "SCL_body")).toMatchObject({
      status: 200,
      replayed: true,
      body: answered.body,
    })
    for (const callId of heads) {
      expect(await row(callId)).toEqual({ state: "uncertain", attempts: ["first ambiguous"] })
      expect(await ring(service, callId)).toMatchObject(replayOf("ambiguous"))
    }
    expect(["SCL_body", ...heads].map(seenByGood)).toEqual([0, 0, 0, 0])
    expect(slow.seen.toSorted()).toEqual(["SCL_body", ...heads])
  })

  it("a worker that answers 50 MB, breaks off within its answer, or answers garbage", async ({
    onTestFinished,
  }) => {
    const keep = keeper(onTestFinished)
    const odd = keep(await startRawWorker(), ({ stop }) => stop())
    const { breakerIsOpen, good, isUp, row, service } = await start(keep, odd.url)
    const whole = 50 * 1024 * 1024
    const calls = ["SCL_big_1", "SCL_big_2", "SCL_big_3", "SCL_big_4"]

    let poured = 0
    odd.conduct = (socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: ${whole}\r\n\r\n`)
      pour(socket, whole, (bytes) => {
        poured += bytes
      })
    }
    const before = await peakMemory(service)
    for (const callId of calls) {
      const answered = await ring(service, callId)
      expect(answered).toMatchObject({ status: 200, replayed: false, body: '{"ok":true}' })
      expect(answered.tookMs).toBeLessThan(soon)
      expect(await row(callId)).toEqual({ state: "accepted", attempts: ["first accepted"] })
    }
    const after = await peakMemory(service)
    if (before !== undefined && after !== undefined) expect(after - before).toBeLessThan(whole)
    // It is not read to its end, either.
    expect(poured).toBeLessThan((calls.length * whole) / 2)
    expect(await ring(service, calls[0]!)).toMatchObject({ status: 200, replayed: true, body: '{"ok":true}' })

    const breakOff = (status: string) => {
      odd.conduct = (socket) => {
        socket.write(
          `HTTP/1.1 ${status}\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\nbeg`,
          () => setTimeout(() => socket.destroy(), 50),
        )
      }
    }
    breakOff("500 Oops")
    expect(await ring(service, "SCL_cut_500")).toMatchObject({ status: 500, replayed: false, body: "beg" })
    expect(await row("SCL_cut_500")).toEqual({ state: "rejected", attempts: ["first rejected"] })
    expect(await ring(service, "SCL_cut_500")).toMatchObject(replayOf("rejected"))
    breakOff("200 OK")
    expect(await ring(service, "SCL_cut_200")).toMatchObject({ status: 200, replayed: false, body: "beg" })
    expect(await row("SCL_cut_200")).toEqual({ state: "accepted", attempts: ["first accepted"] })
    expect(await isUp("first")).toBe(true)

    const garbage = ["SIP/2.0 200 OK\r\n\r\n", "\0\xff\x16\x03\x01\r\n\r\n", "HTTP/1.1 20"]
    for (const [index, answer] of garbage.entries()) {
      odd.conduct = (socket) => socket.end(answer, "latin1")
      const callId = `SCL_garbage_${index}`
      expect(await ring(service, callId)).toMatchObject(dispatchFailed)
      expect(await row(callId)).toEqual({ state: "uncertain", attempts: ["first ambiguous"] })
      expect(await ring(service, callId)).toMatchObject(replayOf("ambiguous"))
    }
    expect(await breakerIsOpen("first")).toBe(true)
    expect(await ring(service, "SCL_next")).toMatchObject(takenBy(good.name))
    expect(new Set(odd.seen).size).toBe(odd.seen.length)
  })

  it("a name that cannot be resolved: nothing was sent; once it can be, calls go through without a restart", async ({
    onTestFinished,
  }) => {
    const keep = keeper(onTestFinished)
    const directory = keep(await mkdtemp(joinPath(tmpdir(), "switchhook-names-")), (made) =>
      rm(made, { recursive: true, force: true }),
    )
    const noNames = joinPath(directory, "no-names")
    const fickle = keep(await startWorker(), ({ stop }) => stop())
    const url = `http://${fickleName}:${new URL(fickle.url).port}`
    const { becomes, good, row, service } = await start(keep, url, { NO_NAMES_FILE: noNames }, [
      fickleNamesModule,
    ])
    expect(await ring(service, "SCL_before")).toMatchObject(takenBy(fickle.name))

    /** A call that is the first to notice: two probes may come before it. */
    const callElsewhere = async () => {
      for (let round = 0; round < 10; round++) {
        await writeFile(noNames, "")
        // So that nothing is left of the connections that the name once led to.
        await fickle.stop()
        await fickle.restart()
        const callId = `SCL_elsewhere_${round}`
        expect(await ring(service, callId)).toMatchObject(takenBy(good.name))
        const stored = await row(callId)
        if (stored?.attempts[0] !== "good accepted") return { callId, stored }
        await rm(noNames)
        await becomes("first", true)
      }
      throw new Error("the probes were always first")
    }
    const elsewhere = await callElsewhere()
    expect(elsewhere.stored).toEqual({ state: "accepted", attempts: ["first not-sent", "good accepted"] })
    await becomes("first", false)
    await good.stop()
    await becomes("good", false)
    expect(await ring(service, "SCL_nobody")).toMatchObject(problem(503, "No healthy fleet"))
    expect(await row("SCL_nobody")).toMatchObject({ state: "waiting" })

    await rm(noNames)
    await becomes("first", true)
    expect(await ring(service, "SCL_after")).toMatchObject(takenBy(fickle.name))
    await eventually("who rang meanwhile is handed over", async () => {
      const waited = await row("SCL_nobody")
      return waited?.state === "accepted"
    })
    await good.restart()
    expect(seenByCall(fickle).get("SCL_nobody")).toBe(1)
    expect(seenByCall(fickle, good).get(elsewhere.callId)).toBe(1)
  })

  it("connections whose other side is gone without a word: an idle one is not trusted, and costs no call", async ({
    onTestFinished,
  }) => {
    const keep = keeper(onTestFinished)
    const far = keep(await startWorker(), ({ stop }) => stop())
    // Each probe connects anew: what calls have left open stays as idle as it is.
    far.behaviour.health = (_, response) => {
      response.writeHead(200, { "content-type": "application/json", connection: "close" })
      response.end(JSON.stringify({ active_calls: 0, max_calls: 100 }))
    }
    far.behaviour.dispatch = slowly(100, 200, { ok: true, worker: far.name })
    const port = Number(new URL(far.url).port)
    const line = keep(await startForwarder({ host: "127.0.0.1", port }), ({ cut }) => cut().catch(() => {}))
    const { becomes, good, row, seenByGood, service } = await start(keep, `http://127.0.0.1:${line.port}`)
    const burst = (name: string) =>
      Promise.all(Array.from({ length: 5 }, (_, index) => ring(service, `SCL_${name}_${index}`)))

    for (const answered of await burst("first")) expect(answered).toMatchObject(takenBy(far.name))
    await sleep(2_100)
    line.forget()
    for (const answered of await burst("second")) {
      expect(answered).toMatchObject(takenBy(far.name))
      expect(answered.tookMs).toBeLessThan(soon)
    }
    expect(new Set(seenByCall(far).values())).toEqual(new Set([1]))

    // One that has just been used is, unless the process was held up meanwhile. So this is what it would look like.
    line.forget()
    const lost = ring(service, "SCL_lost")
    await sleep(2_100)
    expect(await ring(service, "SCL_new")).toMatchObject(takenBy(far.name))

    // And now nothing comes through at all.
    line.hang()
    await becomes("first", false)
    const next = await ring(service, "SCL_next")
    expect(next).toMatchObject(takenBy(good.name))
    expect(next.tookMs).toBeLessThan(soon)
    await line.restore()
    await becomes("first", true)
    expect(await ring(service, "SCL_back")).toMatchObject(takenBy(far.name))

    const reused = (await lost).status !== 200
    expect(await lost).toMatchObject(reused ? dispatchFailed : takenBy(far.name))
    expect(await row("SCL_lost")).toEqual(
      reused
        ? { state: "uncertain", attempts: ["first ambiguous"] }
        : { state: "accepted", attempts: ["first accepted"] },
    )
    expect([seenByCall(far).get("SCL_lost"), seenByGood("SCL_lost")]).toEqual([reused ? undefined : 1, 0])
  })

  it("a slow LiveKit: nobody waits longer than 2 s to hear who is there, and no agent is dispatched twice", async ({
    onTestFinished,
  }) => {
    const keep = keeper(onTestFinished)
    const stage = keep(await startAgentStage(runtime), ({ stop }) => stop())
    const old = Date.now() - 60_000
    const fleetCall = stage.arrive(numbers.fleet, {
      room: { creationTime: String(Math.floor(old / 1000)), creationTimeMs: String(old) },
    })
    stage.behave(fleetCall, "ListParticipants", later(5_000))
    const agentCall = stage.arrive(numbers.agent)
    stage.behave(agentCall, "CreateDispatch", later(15_000))

    const dispatching = ringStage(stage.service, agentCall)
    const handed = await ringStage(stage.service, fleetCall)
    expect(handed).toMatchObject({
      status: 200,
      replayed: false,
      body: { ok: true, worker: stage.worker.name },
    })
    expect(handed.tookMs).toBeGreaterThan(1_900)
    expect(handed.tookMs).toBeLessThan(soon)
    expect(stage.asked(fleetCall, "ListParticipants")).toHaveLength(1)
    expect(stage.relayed(fleetCall)).toBe(1)
    expect(await stage.row(fleetCall)).toMatchObject({ state: "accepted" })

    const answered = await dispatching
    expect(answered).toMatchObject({ status: 502, replayed: false, body: { detail: "Dispatch failed" } })
    expect(answered.tookMs).toBeGreaterThan(9_000)
    expect(await stage.row(agentCall)).toMatchObject({ state: "uncertain", outcome: "ambiguous" })
    stage.behave(agentCall, "CreateDispatch")
    for (const delivery of [agentCall, agedBy(agentCall, 12_000)])
      expect(await ringStage(stage.service, delivery)).toMatchObject({
        status: 200,
        replayed: true,
        body: { outcome: "ambiguous" },
      })
    await eventually("LiveKit is through with it", () => stage.dispatched(agentCall).length > 0)
    expect(stage.asked(agentCall, "CreateDispatch")).toHaveLength(1)
    expect(stage.dispatched(agentCall)).toHaveLength(1)

    const next = stage.arrive(numbers.agent)
    expect(await ringStage(stage.service, next)).toMatchObject({ status: 200, replayed: false })
    expect(stage.dispatched(next)).toHaveLength(1)
  })
})

/** The most that the service has had resident so far, in bytes, where the system says. */
const peakMemory = async ({ process }: Service): Promise<number | undefined> => {
  const status = await readFile(`/proc/${process.pid}/status`, "utf8").catch(() => "")
  const kib = /^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]
  return kib === undefined ? undefined : Number(kib) * 1024
}
