// What a real LiveKit sent for real SIP calls, played against the started service.

import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { type DatabaseKind, databaseKinds, makeDatabase, type TestDatabase } from "../support/databases.ts"
import { recorded, recordings } from "../support/events.ts"
import { ownRuntime, type Runtime, runtimes } from "../support/processes.ts"
import { apiSecret, coreSecret, type Service, startService } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { seenByCall, startWorker } from "../support/workers.ts"

interface Inbound {
  readonly callId: string
  readonly caller: string
  readonly dialed: string
}

const call = (callId: string, caller: string, dialed = "+18885550100"): Inbound => ({
  callId,
  caller,
  dialed,
})

// What each recording's story says; every recording must be named here.
const stories: Record<string, ReadonlyArray<Inbound>> = {
  "agent-hung-up": [call("SCL_bawm4RKLMkGK", "+15550005001", "+18885550101")],
  "alphanumeric-caller": [call("SCL_Ji9CmeN6HtG7", "alice.b-c")],
  "anonymous-caller": [call("SCL_UC4cViaiU6Ub", "anonymous")],
  "answered-by-agent": [call("SCL_kt9VMibtvTwe", "+15551230002")],
  "answered-by-dispatched-agent": [call("SCL_3RbewgkgggXU", "+15550004001")],
  "caller-gave-up": [call("SCL_7QhcmY9Fwqsq", "+15550003002", "+18885550101")],
  "from-without-plus": [call("SCL_Nn8apwXsDoVX", "15550001115")],
  "hidden-number": [call("SCL_QquxPv8mmjgj", "", "")],
  "livekit-restarted": [call("SCL_V6pHcJVCLoA5", "+15550002001")],
  "national-number-and-headers": [call("SCL_sDAhFSRBBBin", "5550001113", "8885550300")],
  "outbound-leg": [],
  "rang-out": [call("SCL_qKPS8NxgVE4b", "+15551234567")],
  "removed-while-ringing": [call("SCL_2GQmJxwQ74G9", "+15550001120")],
  "retried-after-429": [],
  "retried-after-500": [],
  "retried-after-reset": [],
}

const variants: ReadonlyArray<readonly [Runtime, DatabaseKind, "once" | "doubled"]> = [
  ...databaseKinds.flatMap((kind) => [
    [ownRuntime, kind, "once"] as const,
    [ownRuntime, kind, "doubled"] as const,
  ]),
  ...runtimes
    .filter((runtime) => runtime !== ownRuntime)
    .map((runtime) => [runtime, "postgres", "doubled"] as const),
]

it("knows the story of every recording", () => {
  expect(Object.keys(stories).sort()).toEqual(recordings)
})

describe.each(variants)("recordings on %s and %s, every line %s", (runtime, kind, times) => {
  let database: TestDatabase
  let worker: SampleWorker
  let service: Service

  beforeAll(async () => {
    database = await makeDatabase(kind)
    worker = await startWorker()
    service = await startService({ ...database.env, CORE_FLEET: worker.url, LOG_LEVEL: "debug" }, runtime)
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })

  it.each(recordings)("%s: one relay for each inbound call, with its numbers", async (name) => {
    const before = worker.seen.length
    for (const { body } of recorded(name)) {
      const deliveries = times === "doubled" ? [service.ring(body), service.ring(body)] : [service.ring(body)]
      for (const answered of await Promise.all(deliveries)) expect(answered.status).toBe(200)
      await sleep(5)
    }
    const relayed = worker.seen
      .slice(before)
      .map(({ body }) => call(body["call_id"] ?? "", body["caller_number"] ?? "", body["dialed_number"]))
    expect(relayed).toEqual(stories[name])
  })

  it("relays in exactly the worker's contract", () => {
    const seen = worker.seen.find(({ body }) => body["call_id"] === "SCL_kt9VMibtvTwe")!
    expect(seen.raw).toBe(
      '{"room_name":"call-_+15551230002_RqR3Yc5vJNZ7","caller_number":"+15551230002","dialed_number":"+18885550100","call_id":"SCL_kt9VMibtvTwe"}',
    )
    expect(seen.headers["x-cxb-core-secret"]).toBe(coreSecret)
    expect(seen.headers["idempotency-key"]).toMatch(/^[0-9a-f-]{36}$/)
    expect(seen.headers["content-type"]).toBe("application/json")
  })

  it("has relayed every call once, over all of them", () => {
    expect(new Set(seenByCall(worker).values())).toEqual(new Set([1]))
  })

  it("counts events, dispatches, replays and stages, and shows workers and build, for Prometheus", async () => {
    const { text } = await service.get("/metrics")
    const value = (series: string) => {
      const line = text.split("\n").find((each) => each.startsWith(`${series} `))
      return line === undefined ? undefined : Number(line.slice(series.length + 1))
    }
    const calls = Object.values(stories).flat().length
    const counted = (outcome: string) =>
      value(`switchhook_events_total{event="participant_joined",outcome="${outcome}"}`)
    expect(counted("handed-over")).toBe(calls)
    // The doubled lines, and the call that came again after LiveKit's restart.
    expect(counted("replayed")).toBe(times === "doubled" ? calls + 2 : 1)
    expect(value('switchhook_dispatches_total{outcome="accepted"}')).toBe(calls)
    expect(text).toMatch(
      /^switchhook_ledger_replays_total\{known="(already-accepted|in-flight-here)"\} \d+$/m,
    )
    for (const stage of ["authenticate", "record", "select", "claim", "relay", "store"]) {
      expect(value(`switchhook_stage_seconds_count{stage="${stage}"}`)).toBeGreaterThanOrEqual(calls)
    }
    const ended = (status: string, by: string) =>
      value(`switchhook_calls_total{status="${status}",hung_up_by="${by}"}`)
    // Two recordings stop while the phone rings.
    expect([ended("completed", "caller"), ended("completed", "us")]).toEqual([2, 1])
    expect([ended("missed", "caller"), ended("missed", "us")]).toEqual([1, 6])
    expect(value('switchhook_answer_seconds_count{target="fleet"}')).toBe(3)
    expect(value('switchhook_answer_seconds_sum{target="fleet"}')).toBeCloseTo(2.527 + 2.497 + 0.423, 3)
    expect(value(`switchhook_backlog{kind="claim"}`)).toBe(0)
    expect(value(`switchhook_backlog{kind="story"}`)).toBe(0)
    expect(text).not.toMatch(/^switchhook_(extra_answerers|leads_created)_total [1-9]/m)
    const labels = `{worker="${worker.url.slice("http://".length)}"}`
    expect(value(`switchhook_worker_up${labels}`)).toBe(1)
    expect(value(`switchhook_worker_in_flight${labels}`)).toBe(0)
    expect(value(`switchhook_worker_breaker_open${labels}`)).toBe(0)
    expect(value(`switchhook_worker_load${labels}`)).toBeGreaterThanOrEqual(0)
    expect(text).toMatch(
      new RegExp(`^switchhook_build_info\\{version="[^"]+",runtime="${runtime} [^"]+"\\} 1$`, "m"),
    )
    for (const line of text.trim().split("\n"))
      expect(line).toMatch(/^(# (HELP|TYPE) |switchhook_\w+(\{[^}]*\})? [\d.e+-]+$)/)
  })

  it("logs no whole number, no secret, no token and no body", () => {
    const output = service.output()
    expect(output).toContain("SCL_kt9VMibtvTwe")
    expect(output).toContain("…0002")
    const lines = recordings.flatMap((name) => recorded(name))
    for (const { body } of lines) {
      const { participant, room } = JSON.parse(body)
      const numbers = [
        participant?.attributes?.["sip.phoneNumber"],
        participant?.attributes?.["sip.trunkPhoneNumber"],
      ]
      for (const number of numbers)
        if (/\d{6}/.test(number ?? "")) expect(output).not.toContain(number.slice(-7))
      if (room?.turnPassword !== undefined) expect(output).not.toContain(room.turnPassword)
    }
    for (const secret of [apiSecret, coreSecret, "eyJhbGciOi"]) expect(output).not.toContain(secret)
  })
})
