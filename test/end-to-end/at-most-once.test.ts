// A call reaches a worker at most once, whatever is delivered how often to how many replicas.

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { post, signBody } from "../../src/commands/signing.ts"
import {
  databaseKinds,
  makeDatabase,
  makePostgresDatabase,
  type PostgresDatabase,
  type TestDatabase,
} from "../support/databases.ts"
import { joinEvent, leaveOf } from "../support/events.ts"
import { failingAt, failpointsModule } from "../support/failpoints.ts"
import { ownRuntime, signal } from "../support/processes.ts"
import { apiKey, apiSecret, type Service, startService, toBytes } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import {
  bytes,
  cutOff,
  hangUp,
  plainHealth,
  slowly,
  startFreezableWorker,
  startWorker,
} from "../support/workers.ts"

const ready = (service: Service) =>
  eventually("ready", async () => (await service.get("/readyz")).status === 200)

describe.each(databaseKinds)("one process on %s", (kind) => {
  let database: TestDatabase
  let worker: SampleWorker
  let service: Service

  beforeAll(async () => {
    database = await makeDatabase(kind)
    worker = await startWorker()
    service = await startService({ ...database.env, CORE_FLEET: worker.url })
    await ready(service)
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })
  afterEach(async () => {
    // A good call closes the breaker that the bad ones before may have brought close to opening.
    worker.behaviour.dispatch = respond(200, { ok: true })
    await service.ring(joinEvent())
  })

  const seen = (callId: string) => worker.seen.filter(({ body }) => body["call_id"] === callId)

  it("hands the same event, delivered 50 times at once, over once; all get the one answer", async () => {
    worker.behaviour.dispatch = slowly(100, 200, { taken: true })
    const join = joinEvent({ callId: "SCL_fifty" })
    const answers = await Promise.all(Array.from({ length: 50 }, () => service.ring(join)))
    expect(seen("SCL_fifty")).toHaveLength(1)
    expect(new Set(answers.map(({ body, status }) => `${status} ${body}`))).toEqual(
      new Set(['200 {"taken":true}']),
    )
    expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1)
  })

  it("hands a call that comes again under new ids over once", async () => {
    const first = joinEvent({ callId: "SCL_restarted" })
    const again = joinEvent({ callId: "SCL_restarted", room: { sid: first.room.sid, name: first.room.name } })
    expect((await service.ring(first)).replayed).toBe(false)
    expect((await service.ring(again)).replayed).toBe(true)
    expect(seen("SCL_restarted")).toHaveLength(1)
  })

  it("never asks again after a 429: five more deliveries are acknowledged", async () => {
    worker.behaviour.dispatch = respond(429, { error: "busy" })
    const join = joinEvent({ callId: "SCL_429" })
    expect((await service.ring(join)).status).toBe(429)
    for (let delivery = 0; delivery < 5; delivery++) {
      const answered = await service.ring(join)
      expect([answered.status, answered.replayed]).toEqual([200, true])
      expect(JSON.parse(answered.body)).toEqual({
        ok: true,
        replayed: true,
        outcome: "rejected",
        status: 429,
        body: { error: "busy" },
      })
    }
    expect(seen("SCL_429")).toHaveLength(1)
  })

  it.each<[string, SampleWorker["behaviour"]["dispatch"], string]>([
    ["cut off", cutOff(200, '{"ok":tr'), '{"ok":tr'],
    ["10 MB long", bytes(200, "x".repeat(10 * 1024 * 1024)), '{"ok":true}'],
    ["64 KiB and one byte long", bytes(200, "x".repeat(64 * 1024 + 1)), '{"ok":true}'],
    ["64 KiB long", bytes(200, "y".repeat(64 * 1024)), "y".repeat(64 * 1024)],
    ["full of NULs", bytes(200, '{"a":"\0\0\0"}'), '{"a":"\0\0\0"}'],
    ["not JSON", bytes(200, "<html>"), "<html>"],
    ["empty", bytes(200, ""), ""],
  ])("accepts a 200 whose body is %s, once, and replays it", async (what, dispatch, expected) => {
    worker.behaviour.dispatch = dispatch
    const callId = `SCL_body_${what.replaceAll(/\W/g, "")}`
    const join = joinEvent({ callId })
    const first = await service.ring(join)
    const second = await service.ring(join)
    expect([first.status, first.body, first.replayed]).toEqual([200, expected, false])
    expect([second.status, second.body, second.replayed]).toEqual([200, expected, true])
    expect(seen(callId)).toHaveLength(1)
  })

  it("keeps and replays the outcome of a call whose sender hung up while the worker had it", async () => {
    worker.behaviour.dispatch = slowly(2_000, 200, { late: true })
    const body = toBytes(joinEvent({ callId: "SCL_hungup" }))
    const authorization = await signBody(body, apiKey, apiSecret)
    const patience = new AbortController()
    const impatient = fetch(service.webhook, {
      method: "POST",
      headers: { authorization },
      body,
      signal: patience.signal,
    })
    await eventually("the worker has the call", () => seen("SCL_hungup").length === 1)
    patience.abort()
    await expect(impatient).rejects.toThrow()
    const shared = await post(service.webhook, body, authorization)
    expect([shared.status, shared.body, shared.replayed]).toEqual([200, '{"late":true}', true])
    const stored = await post(service.webhook, body, authorization)
    expect([stored.status, stored.body, stored.replayed]).toEqual([200, '{"late":true}', true])
    expect(seen("SCL_hungup")).toHaveLength(1)
  })

  it("hands nothing over once the join's leave is known, and the rejoin again", async () => {
    const join = joinEvent({ callId: "SCL_left" })
    await service.ring(leaveOf(join))
    const answered = await service.ring(join)
    expect(JSON.parse(answered.body)).toEqual({ ok: true, replayed: true, outcome: "left" })
    expect([answered.status, answered.replayed]).toEqual([200, true])
    expect(seen("SCL_left")).toHaveLength(0)

    const later = String(Number(join.participant.joinedAtMs) + 10)
    const rejoin = joinEvent({ callId: "SCL_left", room: join.room, participant: { joinedAtMs: later } })
    expect((await service.ring(rejoin)).status).toBe(200)
    expect(seen("SCL_left")).toHaveLength(1)
    await service.ring(leaveOf(rejoin))
    expect((await service.ring(rejoin)).body).toBe('{"ok":true}')
  })

  it("takes numbers that a database would refuse, as they came", async () => {
    const attributes = {
      "sip.callID": "SCL_\0odd",
      "sip.ruleID": "SDR\0",
      "sip.phoneNumber": "+1\x2d5\ud800",
      "sip.trunkPhoneNumber": "\u0001",
    }
    const join = joinEvent({ attributes, participant: { identity: "sip_\0" } })
    const before = worker.seen.length
    expect((await service.ring(join)).status).toBe(200)
    expect((await service.ring(join)).replayed).toBe(true)
    expect(worker.seen.slice(before).map(({ body }) => body["caller_number"])).toEqual(["+1\x2d5\ud800"])
  })

  it("takes ids longer than an index entry", async () => {
    const attributes = { "sip.callID": "SCL_".padEnd(100_000, "x"), "sip.ruleID": "R" }
    const join = joinEvent({ attributes, room: { sid: "", name: `call-${"y".repeat(50_000)}` } })
    const before = worker.seen.length
    expect((await service.ring(join)).status).toBe(200)
    expect((await service.ring(join)).replayed).toBe(true)
    expect(worker.seen.length - before).toBe(1)
  })
})

describe("two processes on one PostgreSQL", () => {
  let database: PostgresDatabase
  let worker: SampleWorker
  let services: ReadonlyArray<Service>

  beforeAll(async () => {
    database = await makePostgresDatabase()
    worker = await startWorker()
    services = await Promise.all([1, 2].map(() => startService({ ...database.env, CORE_FLEET: worker.url })))
    await Promise.all(services.map(ready))
  })
  afterAll(async () => {
    await Promise.all((services ?? []).map((service) => service.stop()))
    await worker?.stop()
    await database?.drop()
  })

  it("hand the same event, delivered 50 times at once to both, over once", async () => {
    for (let round = 0; round < 5; round++) {
      worker.behaviour.dispatch = slowly(200, 200, { taken: true })
      const callId = `SCL_both_${round}`
      const join = joinEvent({ callId })
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, delivery) => services[delivery % 2]!.ring(join)),
      )
      expect(worker.seen.filter(({ body }) => body["call_id"] === callId)).toHaveLength(1)
      // Those that met the other process's hand-over are told to come again; LiveKit does.
      for (const { body, status } of answers) {
        expect(['200 {"taken":true}', "503 Call in flight"]).toContain(
          `${status} ${status === 200 ? body : JSON.parse(body).detail}`,
        )
      }
      expect(answers.some(({ status }) => status === 200)).toBe(true)
      for (const service of services) {
        const again = await service.ring(join)
        expect([again.status, again.body, again.replayed]).toEqual([200, '{"taken":true}', true])
      }
    }
  })

  it("do not send a call again whose process died over it, and say so", async () => {
    const doomed = await startService({ ...database.env, CORE_FLEET: worker.url })
    await ready(doomed)
    worker.behaviour.dispatch = () => {}
    const join = joinEvent({ callId: "SCL_died" })
    const lost = doomed.ring(join).catch(() => "lost")
    await eventually("the worker has the call", () =>
      worker.seen.some(({ body }) => body["call_id"] === "SCL_died"),
    )
    await doomed.stop("SIGKILL")
    expect(await lost).toBe("lost")
    worker.behaviour.dispatch = respond(200, { ok: true })
    const { status } = await services[0]!.ring(join)
    const [lease] = await database.query<{ held: boolean }>(
      "SELECT lease_until > clock_timestamp() AS held FROM calls WHERE sip_call_id = 'SCL_died'",
    )
    if (lease?.held) expect(status).toBe(503)
    const answered = await eventually("the lease has lapsed", async () => {
      const answered = await services[0]!.ring(join)
      return answered.status === 200 ? answered : undefined
    })
    expect(JSON.parse(answered.body)).toEqual({ ok: true, replayed: true, outcome: "ambiguous" })
    expect(worker.seen.filter(({ body }) => body["call_id"] === "SCL_died")).toHaveLength(1)
    const rows = await database.query("SELECT state FROM calls WHERE sip_call_id = 'SCL_died'")
    expect(rows).toEqual([{ state: "uncertain" }])
  })

  it("keep the lease of a slow hand-over alive", { timeout: 120_000 }, async () => {
    const expected = '503 and {"slow":true}'
    let shown = ""
    // A process that is held up for longer than its lease loses it, as it should.
    for (let round = 0; round < 3 && shown !== expected; round++) {
      const answer = Promise.withResolvers<void>()
      worker.behaviour.dispatch = async (request, response) => {
        await answer.promise
        respond(200, { slow: true })(request, response)
      }
      const callId = `SCL_slow_${round}`
      const join = joinEvent({ callId })
      const first = services[0]!.ring(join)
      await sleep(4_500)
      const { status } = await services[1]!.ring(join)
      answer.resolve()
      shown = `${status} and ${(await first).body}`
      expect(worker.seen.filter(({ body }) => body["call_id"] === callId)).toHaveLength(1)
    }
    expect(shown).toBe(expected)
  })

  it("send nothing after a stop that outlasted the lease, and then know that nothing was sent", async () => {
    const frozen = await startFreezableWorker()
    const strike = failingAt({ point: "claimed", how: "stop", callId: "SCL_stopped" })
    const stopped = await startService({ ...database.env, ...strike }, ownRuntime, [failpointsModule])
    const stateOf = async () => {
      const rows = await database.query<{ state: string }>(
        "SELECT state FROM calls WHERE sip_call_id = 'SCL_stopped'",
      )
      return rows[0]?.state
    }
    try {
      await database.query("UPDATE system_settings SET value = to_jsonb($1::text)", [frozen.url])
      await eventually("the frozen worker is the fleet", async () => {
        const { text } = await stopped.get("/metrics")
        return text.includes(`switchhook_worker_up{worker="${frozen.url.slice(7)}"} 1`)
      })
      const join = joinEvent({ callId: "SCL_stopped" })
      const ringing = stopped.ring(join)
      await eventually("the call is claimed", async () => (await stateOf()) === "handing")
      // Not before: by its probes the process would know.
      await frozen.freeze()
      await database.query("UPDATE system_settings SET value = to_jsonb($1::text)", [worker.url])
      const answered = await eventually("the lease has lapsed", async () => {
        const answered = await services[0]!.ring(join)
        return answered.status === 503 ? undefined : answered
      })
      // Nobody can tell whether the other process had sent it.
      expect(JSON.parse(answered.body)).toMatchObject({ outcome: "ambiguous" })
      expect(await stateOf()).toBe("uncertain")
      worker.behaviour.dispatch = respond(200, { ok: true })
      signal(stopped.process, "SIGCONT")
      // It had not, and it sends nothing now: a late outcome still counts.
      expect((await ringing).status).toBe(502)
      await eventually("that is stored", async () => {
        const [attempt] = await database.query<{ outcome: string | null }>(
          `SELECT a.outcome FROM dispatch_attempts a JOIN calls c ON c.id = a.call_id
           WHERE c.sip_call_id = 'SCL_stopped' AND a.attempt = 1`,
        )
        return attempt?.outcome === "not-sent"
      })
      await eventually("dispatched", async () => (await services[0]!.ring(join)).status === 200)
      expect(worker.seen.filter(({ body }) => body["call_id"] === "SCL_stopped")).toHaveLength(1)
      frozen.thaw()
      const { seen } = (await (await fetch(`${frozen.url}/livekit/dispatch`, { method: "POST" })).json()) as {
        seen: number
      }
      expect(seen).toBe(1)
    } finally {
      await database.query("UPDATE system_settings SET value = to_jsonb($1::text)", [worker.url])
      frozen.stop()
      await stopped.stop("SIGKILL")
    }
  })
})

describe("a fleet with trouble", () => {
  let database: PostgresDatabase
  let workers: Array<SampleWorker>
  let service: Service

  const start = async (count: number) => {
    database = await makePostgresDatabase()
    workers = await Promise.all(Array.from({ length: count }, () => startWorker()))
    service = await startService({ ...database.env, CORE_FLEET: workers.map(({ url }) => url).join(",") })
    await ready(service)
  }
  const stop = async () => {
    await service?.stop()
    await Promise.all(workers.map((worker) => worker.stop()))
    await database?.drop()
  }
  afterEach(stop)

  const up = async () => {
    const { text } = await service.get("/metrics")
    return [...text.matchAll(/switchhook_worker_up\{worker="([^"]+)"\} 1/g)].map(
      (match) => `http://${match[1]}`,
    )
  }
  const seen = (callId: string) =>
    workers.map((worker) => worker.seen.filter(({ body }) => body["call_id"] === callId).length)

  // A probe may find out a moment before the call does; then there is nothing to see, and it is tried again.
  const untilSeen = async (
    stopped: ReadonlyArray<SampleWorker>,
    ringAndLook: (round: number) => Promise<boolean>,
  ) => {
    for (let round = 0; round < 10; round++) {
      await eventually("all up", async () => (await up()).length === workers.length)
      await Promise.all(stopped.map((worker) => worker.stop()))
      const seen = await ringAndLook(round)
      if (seen) return
      await Promise.all(stopped.map((worker) => worker.restart()))
    }
    throw new Error("the probes were always first")
  }

  it("asks the second worker within the same webhook where the first refuses the connection", async () => {
    await start(2)
    let rung = 0
    await untilSeen([workers[0]!], async (round) => {
      const ids = Array.from({ length: 8 }, (_, call) => `SCL_over_${round}_${call}`)
      const answers = await Promise.all(ids.map((callId) => service.ring(joinEvent({ callId }))))
      rung += 8
      expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200))
      expect(workers[1]!.seen).toHaveLength(rung)
      const attempts = await database.query<{ outcome: string }>(
        "SELECT DISTINCT outcome FROM dispatch_attempts",
      )
      return attempts.some(({ outcome }) => outcome === "not-sent")
    })
    await workers[0]!.restart()
  })

  it("answers 502 where all refuse, and hands over once one is back, to a delivery or by itself", async () => {
    await start(2)
    let join = joinEvent()
    await untilSeen(workers, async () => {
      join = joinEvent()
      const first = await service.ring(join)
      return first.status === 502 && JSON.parse(first.body).detail === "Dispatch failed"
    })
    const second = await service.ring(join)
    expect([second.status, JSON.parse(second.body).detail]).toEqual([503, "No healthy fleet"])
    await Promise.all(workers.map((worker) => worker.restart()))
    await eventually("taken", async () => (await service.ring(join)).status === 200)
    expect(seen(join.participant.attributes["sip.callID"] ?? "").reduce((a, b) => a + b)).toBe(1)
  })

  it("asks nobody else where a worker took the request and dropped the connection, then or later", async () => {
    await start(2)
    for (const worker of workers) worker.behaviour.dispatch = hangUp
    const join = joinEvent({ callId: "SCL_dropped" })
    const first = await service.ring(join)
    expect([first.status, JSON.parse(first.body).detail]).toEqual([502, "Dispatch failed"])
    for (let delivery = 0; delivery < 3; delivery++) {
      const again = await service.ring(join)
      expect(JSON.parse(again.body)).toEqual({ ok: true, replayed: true, outcome: "ambiguous" })
    }
    expect(seen("SCL_dropped").reduce((a, b) => a + b)).toBe(1)
  })

  it("sends it again, under the same key and to the same worker, where that worker is idempotent", async () => {
    await start(2)
    const asked = new Map<SampleWorker, number>()
    for (const worker of workers) {
      worker.behaviour.health = (request, response) => {
        asked.set(worker, (asked.get(worker) ?? 0) + 1)
        respond(200, { active_calls: 0, idempotent: true })(request, response)
      }
    }
    // It is asked again once its answer was read.
    await eventually("both have said so", () => workers.every((worker) => (asked.get(worker) ?? 0) >= 2))
    for (const worker of workers) worker.behaviour.dispatch = hangUp
    const join = joinEvent({ callId: "SCL_idem" })
    expect((await service.ring(join)).status).toBe(502)
    const [holder] = workers.filter((worker) => worker.seen.length === 1)
    for (const worker of workers) worker.behaviour.dispatch = respond(200, { had: "it" })
    const again = await service.ring(join)
    expect([again.status, again.body, again.replayed]).toEqual([200, '{"had":"it"}', false])
    expect(holder!.seen.map(({ body }) => body["call_id"])).toEqual(["SCL_idem", "SCL_idem"])
    expect(new Set(holder!.seen.map(({ headers }) => headers["idempotency-key"])).size).toBe(1)
    expect(seen("SCL_idem").sort()).toEqual([0, 2])
    expect((await service.ring(join)).replayed).toBe(true)
    expect(seen("SCL_idem").sort()).toEqual([0, 2])
  })

  it("takes a worker that died out, and in again once it is back", async () => {
    await start(2)
    await eventually("both up", async () => (await up()).length === 2)
    await workers[0]!.stop()
    await eventually("out", async () => !(await up()).includes(workers[0]!.url), 10_000)
    await workers[0]!.restart()
    await eventually("back", async () => (await up()).length === 2, 10_000)
  })

  it("takes a worker that hangs out after two probes", async () => {
    await start(2)
    await eventually("both up", async () => (await up()).length === 2)
    workers[1]!.behaviour.health = () => {}
    await eventually("out", async () => !(await up()).includes(workers[1]!.url))
  })

  it("takes a worker that answers every call with 401 out after three", async () => {
    await start(2)
    workers[0]!.behaviour.dispatch = respond(401, { error: "wrong secret" })
    const begunAt = performance.now()
    let rung = 0
    const ringOnce = () => service.ring(joinEvent({ callId: `SCL_401_${rung++}` }))
    await eventually("it has answered three", async () => {
      await ringOnce()
      return workers[0]!.seen.length === 3
    })
    await Promise.all(Array.from({ length: 10 }, ringOnce))
    // After 5 s it gets one more, to see whether it has recovered.
    const most = performance.now() - begunAt < 5_000 ? 3 : 4
    expect(workers[0]!.seen.length).toBeLessThanOrEqual(most)
    expect(workers[1]!.seen).toHaveLength(rung - workers[0]!.seen.length)
    const { text } = await service.get("/metrics")
    expect(text).toContain(`switchhook_worker_breaker_open{worker="${workers[0]!.url.slice(7)}"} 1`)
  })

  it("gives no call to a draining or full worker, and again to one that recovers", async () => {
    await start(3)
    await eventually("all up", async () => (await up()).length === 3)
    workers[0]!.behaviour.health = { status: 200, body: { status: "draining" } }
    workers[1]!.behaviour.health = { status: 200, body: { active_calls: 10, max_calls: 10 } }
    await eventually("one left", async () => (await up()).length === 1)
    for (let call = 0; call < 10; call++) expect((await service.ring(joinEvent())).status).toBe(200)
    expect(workers.map((worker) => worker.seen.length)).toEqual([0, 0, 10])
    workers[0]!.behaviour.health = plainHealth
    workers[1]!.behaviour.health = { status: 200, body: { active_calls: 2, max_calls: 10 } }
    await eventually("all back", async () => (await up()).length === 3)
  })

  it("spreads a burst of 100 calls over 4 equal workers: 25 ± 8 each", async () => {
    await start(4)
    for (const worker of workers) worker.behaviour.dispatch = slowly(20, 200, { ok: true })
    await eventually("all up", async () => (await up()).length === 4)
    await Promise.all(Array.from({ length: 100 }, () => service.ring(joinEvent())))
    for (const worker of workers) expect(Math.abs(worker.seen.length - 25)).toBeLessThanOrEqual(8)
  })

  it("spreads 400 calls over 4 workers that answer in 2 ms and report no load: 100 ± 32 each", async () => {
    await start(4)
    for (const worker of workers) {
      worker.behaviour.health = plainHealth
      worker.behaviour.dispatch = slowly(2, 200, { ok: true })
    }
    await eventually("all up", async () => (await up()).length === 4)
    await sleep(1_100)
    for (let batch = 0; batch < 20; batch++) {
      await Promise.all(Array.from({ length: 20 }, () => service.ring(joinEvent())))
    }
    for (const worker of workers) expect(Math.abs(worker.seen.length - 100)).toBeLessThanOrEqual(32)
  })

  it("finishes a relay to a worker that is taken out of the fleet meanwhile", async () => {
    await start(2)
    for (const worker of workers) worker.behaviour.dispatch = slowly(2_000, 200, { done: true })
    const ringing = service.ring(joinEvent({ callId: "SCL_leaving" }))
    await eventually("begun", () => seen("SCL_leaving").includes(1))
    await database.query("UPDATE system_settings SET value = '[]' WHERE key = 'core_fleet'")
    await eventually(
      "the fleet is empty",
      async () => (await service.get("/readyz")).text.includes("No fleet"),
      5_000,
    )
    expect((await ringing).body).toBe('{"done":true}')
  })
})
