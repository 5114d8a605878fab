// The two URLs that record LiveKit's events and dispatch nothing, and what all three write together.

import { createHash } from "node:crypto"
import { Effect } from "effect"
import { HttpServerResponse } from "effect/http"
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { migrate } from "../../src/database/migrations.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { sessionFailure } from "../../src/http/answers.ts"
import { loggingLayer } from "../../src/logging.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { type JoinEvent, joinEvent, leaveOf, recorded } from "../support/events.ts"
import { startForwarder } from "../support/forwarder.ts"
import { runtimes } from "../support/processes.ts"
import { type Service, startService, toBytes } from "../support/service.ts"
import { makeToken, type TokenParts } from "../support/tokens.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

const dispatchPath = "/api/v1/livekit/webhook"
const eventsPath = "/api/v1/webhooks/livekit/events"
const sessionsPath = "/api/v1/webhooks/livekit"
const paths = [dispatchPath, eventsPath, sessionsPath]
const recordingPaths = [eventsPath, sessionsPath]

interface Told {
  readonly status: number
  readonly type: string | null
  readonly text: string
}

const send = async (
  service: Service,
  path: string,
  bytes: Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = {},
): Promise<Told> => {
  const response = await fetch(service.url + path, { method: "POST", headers, body: bytes })
  return {
    status: response.status,
    type: response.headers.get("content-type"),
    text: await response.text(),
  }
}

const sendSigned = (service: Service, path: string, body: unknown, parts: TokenParts = {}) => {
  const bytes = toBytes(body)
  return send(service, path, bytes, { authorization: makeToken(bytes, parts) })
}

const expectJson = (told: Told, status: number, expected: unknown) => {
  expect([told.status, told.type, JSON.parse(told.text)]).toEqual([status, "application/json", expected])
}

const expectSuccess = (told: Told) => {
  expect([told.status, told.type, told.text]).toEqual([200, "application/json", '{"success":true}'])
}

const expectProblem = (told: Told, status: number, title: string, detail: string) => {
  expect([told.status, told.type]).toEqual([status, "application/problem+json"])
  expect(JSON.parse(told.text)).toEqual({ type: "about:blank", title, status, detail })
}

/** Sends the event to the URL, and expects what that URL says where all is well. */
const record = async (service: Service, path: string, event: unknown) => {
  const told = await sendSigned(service, path, event)
  if (path === eventsPath) return expectSuccess(told)
  expect([told.status, JSON.parse(told.text)]).toEqual([
    200,
    path === dispatchPath ? { ok: true } : expect.objectContaining({ success: true }),
  ])
}

let made = 0
const unique = (prefix: string) => `${prefix}_${process.pid}x${Date.now().toString(36)}x${made++}`

/** A call to a number with a campaign, in a room of its own; its times count from `base`, in milliseconds. */
const makeStory = (caller = "+15551230001") => {
  const base = Math.floor(Date.now() / 1000) * 1000
  const callId = unique("SCL")
  const room = {
    sid: unique("RM"),
    name: `call-_${caller}_${unique("r")}`,
    creationTime: String(base / 1000),
    creationTimeMs: String(base),
  }
  const eventAt = (event: string, atMs: number, more: object = {}) => ({
    event,
    room,
    id: unique("EV"),
    createdAt: String(Math.floor((base + atMs) / 1000)),
    ...more,
  })
  const legAt = (atMs: number, status: string, more: object = {}) => ({
    sid: `PA_${callId}_${atMs}`,
    identity: `sip_${caller}`,
    joinedAt: String(Math.floor((base + atMs) / 1000)),
    joinedAtMs: String(base + atMs),
    kind: "SIP",
    attributes: {
      "sip.callID": callId,
      "sip.trunkID": "ST_in",
      "sip.ruleID": "SDR_1",
      "sip.phoneNumber": caller,
      "sip.trunkPhoneNumber": "+18588796658",
      "sip.callStatus": status,
    },
    ...more,
  })
  const agentAt = (atMs: number) => ({
    sid: `PA_${callId}_agent_${atMs}`,
    identity: "agent-1",
    joinedAtMs: String(base + atMs),
    kind: "AGENT",
  })
  return {
    callId,
    caller,
    room,
    base,
    started: (atMs = 0, name = "room_started") => eventAt(name, atMs),
    finished: (atMs: number, name = "room_finished") => eventAt(name, atMs),
    joined: (atMs = 100, name = "participant_joined") =>
      eventAt(name, atMs, { participant: legAt(atMs, "ringing") }),
    answered: (atMs: number, name = "participant_joined") =>
      eventAt(name, atMs, { participant: agentAt(atMs) }),
    /** The leave of the leg that has joined at `joinedAtMs`. */
    left: (atMs: number, status: string, disconnectReason: string, joinedAtMs = 100) =>
      eventAt("participant_left", atMs, { participant: legAt(joinedAtMs, status, { disconnectReason }) }),
    aborted: (atMs: number, name = "participant_connection_aborted") =>
      eventAt(name, atMs, { participant: legAt(100, "ringing") }),
  }
}
type Story = ReturnType<typeof makeStory>

/** One number with a campaign, there before any service starts. */
const seed = async (database: PostgresDatabase) => {
  const engine = makePostgres(database.url)
  await Effect.runPromise(migrate(engine))
  await engine.close()
  await database.query("INSERT INTO tenants (name) VALUES ('one')")
  await database.query("INSERT INTO campaigns (tenant_id, name) SELECT id, 'spring' FROM tenants")
  await database.query(
    "INSERT INTO dids (number, raw_number, tenant_id, campaign_id) SELECT '+18588796658', '8588796658', tenant_id, id FROM campaigns",
  )
}

interface LogRow {
  readonly [column: string]: unknown
}

const callOf = async (database: PostgresDatabase, callId: string) => {
  const rows = await database.query<LogRow>(
    `SELECT c.*, l.status AS lead_status, l.name AS lead_name, (extract(epoch FROM l.last_call_at) * 1000)::bigint AS last_call_ms
     FROM calls c LEFT JOIN leads l ON l.id = c.lead_id WHERE c.sip_call_id = $1`,
    [callId],
  )
  expect(rows.length).toBeLessThan(2)
  return rows[0]
}

const sessionOf = async (database: PostgresDatabase, roomSid: string) => {
  const rows = await database.query<LogRow>("SELECT * FROM sessions WHERE room_sid = $1", [roomSid])
  expect(rows.length).toBeLessThan(2)
  return rows[0]
}

/** Everything that tells what the log says of a call; times as texts, as `bigint` comes. */
const ms = (time: number) => String(time)

/** Unsigned requests of the tests are many and must not be refused for that. */
const patient = { RATE_LIMIT_PER_MINUTE: "1000000" }

// PostgreSQL compresses what it puts into an index: only a long text like this one shows whether it would fit.
const incompressible = Array.from({ length: 7_000 }, (_, index) =>
  createHash("sha256").update(String(index)).digest("base64"),
).join("")

describe.each(runtimes)("the URLs that record, on %s,", (runtime) => {
  let database: PostgresDatabase
  let worker: SampleWorker
  let service: Service

  beforeAll(async () => {
    database = await makePostgresDatabase()
    await seed(database)
    worker = await startWorker()
    service = await startService({ ...database.env, ...patient, CORE_FLEET: worker.url }, runtime)
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })

  const relaysOf = (callId: string) => worker.seen.filter(({ body }) => body["call_id"] === callId).length
  const post = (path: string, body: unknown) => sendSigned(service, path, body)

  describe("events", () => {
    it.each([
      "room_started",
      "room_finished",
      "participant_joined",
      "participant_left",
      "participant_connection_aborted",
      "track_published",
      "track_unpublished",
      "egress_started",
      "egress_updated",
      "egress_ended",
      "ingress_started",
      "ingress_ended",
      "agent_job_started",
      "agent_job_ended",
      "room.started",
      "room.created",
      "room.finished",
      "room.closed",
      "room.ended",
      "participant.joined",
      "participant.connected",
      "participant.left",
      "participant.disconnected",
      "participant.connection_aborted",
      "participant.connection.aborted",
      "track.published",
      "an_event_of_tomorrow",
      "an.event.of.tomorrow",
      "__proto__",
      "constructor",
      "…",
    ])("answer %s, with everything that an event may have, in part, and bare", async (event) => {
      const whole = { ...joinEvent(), event }
      const { participant: _, ...withoutParticipant } = whole
      const { room: __, ...withoutRoom } = whole
      for (const body of [whole, withoutParticipant, withoutRoom, { event }]) {
        expectSuccess(await post(eventsPath, body))
      }
    })

    it.each([
      ["no token", async () => send(service, eventsPath, toBytes("{}")), 401, "Unauthorized", "Missing auth"],
      [
        "another secret's token",
        async () => sendSigned(service, eventsPath, "{}", { secret: "wrong" }),
        401,
        "Unauthorized",
        "Invalid signature",
      ],
      ["what is no event", async () => post(eventsPath, "{}"), 400, "Bad Request", "Invalid payload"],
      [
        "more than 1 MiB",
        async () => post(eventsPath, { event: "room_started", more: "x".repeat(1024 * 1024) }),
        413,
        "Content Too Large",
        "Payload too large",
      ],
    ] as const)("answer %s with problem details", async (_, sent, status, title, detail) => {
      expectProblem(await sent(), status, title, detail)
    })
  })

  describe("sessions", () => {
    const moved = (story: Story, event_type: string, old_status: string, new_status: string) => ({
      success: true,
      results: {
        processed: true,
        action: "status_updated",
        room_id: story.room.name,
        old_status,
        new_status,
        event_type,
      },
    })
    const logged = (room_id: string, event_type: string, status: string | null = null) => ({
      success: true,
      results: {
        processed: true,
        action: "logged",
        room_id,
        old_status: status,
        new_status: status,
        event_type,
      },
    })

    it("say how a room moves, once for each move", async () => {
      const story = makeStory()
      expectJson(
        await post(sessionsPath, story.started()),
        200,
        moved(story, "room_started", "ready", "live"),
      )
      expectJson(
        await post(sessionsPath, story.started()),
        200,
        logged(story.room.name, "room_started", "live"),
      )
      expect(await sessionOf(database, story.room.sid)).toMatchObject({
        room_key: story.room.sid,
        room_name: story.room.name,
        status: "live",
        started_at_ms: ms(story.base),
        ended_at_ms: null,
      })
      expectJson(
        await post(sessionsPath, story.finished(5_000)),
        200,
        moved(story, "room_finished", "live", "stopped"),
      )
      expectJson(
        await post(sessionsPath, story.finished(5_000)),
        200,
        logged(story.room.name, "room_finished", "stopped"),
      )
      // LiveKit's queues may bring it that late; the room does not live again.
      expectJson(
        await post(sessionsPath, story.started()),
        200,
        logged(story.room.name, "room_started", "stopped"),
      )
      expect(await sessionOf(database, story.room.sid)).toMatchObject({
        status: "stopped",
        ended_at_ms: ms(story.base + 5_000),
      })
    })

    it("say that a room whose start nobody saw has stopped", async () => {
      const story = makeStory()
      expectJson(
        await post(sessionsPath, story.finished(5_000)),
        200,
        moved(story, "room_finished", "ready", "stopped"),
      )
    })

    it("are ready from the first that is heard of the room", async () => {
      const story = makeStory()
      await post(sessionsPath, story.joined())
      expect(await sessionOf(database, story.room.sid)).toMatchObject({
        status: "ready",
        started_at_ms: null,
      })
      const meeting = makeStory()
      await post(sessionsPath, { ...meeting.answered(0), room: { ...meeting.room, name: "a meeting" } })
      expect(await sessionOf(database, meeting.room.sid)).toMatchObject({ status: "ready" })
    })

    it.each([
      ["room.started", "ready", "live"],
      ["room.finished", "ready", "stopped"],
      ["room.closed", "ready", "stopped"],
    ])("move by %s, under the name that it has", async (name, from, to) => {
      const story = makeStory()
      expectJson(await post(sessionsPath, story.started(0, name)), 200, moved(story, name, from, to))
      expect(await sessionOf(database, story.room.sid)).toMatchObject({ status: to })
    })

    it.each([
      "participant_joined",
      "participant.joined",
      "participant_left",
      "participant_connection_aborted",
      "track_published",
      "egress_started",
      "an_event_of_tomorrow",
    ])("log %s", async (event) => {
      const body = joinEvent({ event: { event } })
      expectJson(await post(sessionsPath, body), 200, logged(body.room.name, event))
    })

    it("log an event without a room", async () => {
      expectJson(await post(sessionsPath, { event: "egress_started" }), 200, logged("", "egress_started"))
      expectJson(await post(sessionsPath, { event: "room_started" }), 200, logged("", "room_started"))
    })

    it("of one name are several, and the late end of the old one does not stop the new", async () => {
      const old = makeStory()
      const young = makeStory()
      const later = { ...young.started(60_000), room: { ...young.room, name: old.room.name } }
      for (const event of [old.started(), later, old.finished(61_000)]) await post(sessionsPath, event)
      expect((await sessionOf(database, old.room.sid))?.["status"]).toBe("stopped")
      expect((await sessionOf(database, young.room.sid))?.["status"]).toBe("live")
    })

    describe("fail with a code and an id that stands in the log, too:", () => {
      const now = () => Math.floor(Date.now() / 1000)
      const signedWith = (parts: TokenParts) => () =>
        sendSigned(service, sessionsPath, { event: "room_started" }, parts)
      const withHeader = (authorization: string) => () =>
        send(service, sessionsPath, toBytes("{}"), { authorization })
      const signature = (why: string) =>
        [401, "E_WEBHOOK_INVALID_SIGNATURE", `Webhook verification failed: ${why}`] as const
      const payload = [400, "E_WEBHOOK_INVALID_PAYLOAD", "Invalid payload"] as const

      it.each<[string, () => Promise<Told>, readonly [number, string, string]]>([
        [
          "no token",
          () => send(service, sessionsPath, toBytes("{}")),
          [401, "E_WEBHOOK_MISSING_AUTH", "Missing auth"],
        ],
        ["an empty token", withHeader("Bearer "), [401, "E_WEBHOOK_MISSING_AUTH", "Missing auth"]],
        ["no JWT", withHeader("garbage"), signature("malformed token")],
        ["four parts", withHeader("a.b.c.d"), signature("malformed token")],
        ["HS512", signedWith({ alg: "HS512" }), signature("unsupported algorithm")],
        ["no algorithm", signedWith({ alg: "none" }), signature("unsupported algorithm")],
        ["nobody's key", signedWith({ key: "nobody" }), signature("unknown key")],
        ["another secret", signedWith({ secret: "wrong" }), signature("bad signature")],
        ["an old token", () => signedWith({ claims: { exp: now() - 120 } })(), signature("token expired")],
        [
          "an early token",
          () => signedWith({ claims: { nbf: now() + 3_600 } })(),
          signature("token not yet valid"),
        ],
        ["an eternal token", signedWith({ claims: { exp: undefined } }), signature("invalid claims")],
        ["a token without a hash", signedWith({ claims: { sha256: undefined } }), signature("hash mismatch")],
        [
          "the token of another body",
          () => send(service, sessionsPath, toBytes("{}"), { authorization: makeToken(toBytes("[]")) }),
          signature("hash mismatch"),
        ],
        ["no JSON", () => post(sessionsPath, "{"), payload],
        ["no event", () => post(sessionsPath, "{}"), payload],
        ["a list", () => post(sessionsPath, "[]"), payload],
        [
          "more than 1 MiB",
          () => post(sessionsPath, { event: "room_started", more: "x".repeat(1024 * 1024) }),
          [413, "E_WEBHOOK_PAYLOAD_TOO_LARGE", "Payload too large"],
        ],
      ])("%s", async (_, sent, [status, errcode, errmesg]) => {
        const told = await sent()
        const { erresid, ...rest } = JSON.parse(told.text)
        expect([told.status, told.type, rest]).toEqual([
          status,
          "application/json",
          { success: false, errcode, errmesg },
        ])
        expect(erresid).toMatch(/^[0-9a-z]{10}$/)
        const line = await eventually("the log's line", () =>
          service.log.find((one) => one["erresid"] === erresid),
        )
        expect(line).toMatchObject({ level: "warn", errcode, errmesg })
      })
    })
  })

  describe("the call log says", () => {
    const play = async (path: string, ...events: ReadonlyArray<unknown>) => {
      for (const event of events) await record(service, path, event)
    }

    it.each(recordingPaths)("by %s: ringing, active, completed, and so does the lead", async (path) => {
      const story = makeStory(path === eventsPath ? "+15551230030" : "+15551230031")
      await play(path, story.started(), story.joined(100))
      expect(await callOf(database, story.callId)).toMatchObject({
        call_key: story.callId,
        state: "none",
        direction: "inbound",
        status: "ringing",
        caller: story.caller,
        caller_e164: story.caller,
        dialed: "+18588796658",
        dialed_e164: "+18588796658",
        trunk_id: "ST_in",
        room_sid: story.room.sid,
        room_name: story.room.name,
        started_at_ms: ms(story.base + 100),
        answered_at_ms: null,
        lead_name: `Inbound Caller ${story.caller}`,
        lead_status: "calling",
        last_call_ms: ms(story.base + 100),
      })
      await play(path, story.answered(2_600))
      expect(await callOf(database, story.callId)).toMatchObject({
        status: "active",
        answered_at_ms: ms(story.base + 2_600),
        ring_ms: "2500",
        ended_at_ms: null,
        lead_status: "calling",
      })
      await play(path, story.left(12_000, "hangup", "CLIENT_INITIATED"))
      const ended = {
        status: "completed",
        ended_at_ms: ms(story.base + 12_000),
        ring_ms: "2500",
        duration_ms: "9400",
        hung_up_by: "caller",
        lead_status: "completed",
        last_call_ms: ms(story.base + 100),
      }
      expect(await callOf(database, story.callId)).toMatchObject(ended)
      // The room ends later, and again: neither moves the call.
      await play(path, story.finished(32_000), story.finished(32_000))
      expect(await callOf(database, story.callId)).toMatchObject(ended)
      expect(await sessionOf(database, story.room.sid)).toMatchObject({ status: "stopped" })
      expect(relaysOf(story.callId)).toBe(0)
    })

    it.each<[string, (story: Story) => ReadonlyArray<unknown>, LogRow]>([
      [
        "gave up",
        (story) => [story.left(5_000, "hangup", "CLIENT_INITIATED")],
        { status: "missed", hung_up_by: "caller", end_reason: "gave up", lead_status: "missed" },
      ],
      [
        "rang out",
        (story) => [story.left(180_000, "ringing", "CLIENT_INITIATED")],
        { status: "missed", hung_up_by: "us", end_reason: "rang out", lead_status: "missed" },
      ],
      [
        "was turned away",
        (story) => [story.left(1_000, "ringing", "PARTICIPANT_REMOVED")],
        { status: "missed", hung_up_by: "us", end_reason: "turned away", lead_status: "missed" },
      ],
      ["never came", (story) => [story.aborted(1_000)], { status: "failed", lead_status: "failed" }],
      [
        "was hung up on",
        (story) => [story.answered(2_000), story.left(9_000, "active", "ROOM_DELETED")],
        { status: "completed", hung_up_by: "us", duration_ms: "7000", lead_status: "completed" },
      ],
      [
        "was in a room that ended",
        (story) => [story.answered(2_000), story.finished(9_000)],
        { status: "completed", hung_up_by: "us", duration_ms: "7000", lead_status: "completed" },
      ],
      [
        "reconnected",
        (story) => [
          story.answered(2_000),
          story.joined(8_000),
          story.left(8_000, "active", "CLIENT_INITIATED", 100),
        ],
        { status: "active", ended_at_ms: null, lead_status: "calling" },
      ],
      [
        "reconnected and hung up",
        (story) => [
          story.left(8_000, "active", "CLIENT_INITIATED", 100),
          story.answered(2_000),
          story.left(15_000, "hangup", "CLIENT_INITIATED", 8_000),
          story.joined(8_000),
        ],
        { status: "completed", hung_up_by: "caller", duration_ms: "13000", lead_status: "completed" },
      ],
    ])("of a caller who %s", async (_, events, expected) => {
      for (const path of recordingPaths) {
        const story = makeStory(`+1555124${String(1000 + (made++ % 9000))}`)
        await play(path, story.joined(100), ...events(story))
        expect(await callOf(database, story.callId)).toMatchObject(expected)
      }
    })

    it("the same by the dotted names", async () => {
      const story = makeStory("+15551230032")
      const leave = { ...story.left(12_000, "hangup", "CLIENT_INITIATED"), event: "participant.left" }
      await play(
        eventsPath,
        story.started(0, "room.started"),
        story.joined(100, "participant.joined"),
        story.answered(2_600, "participant.joined"),
        leave,
        story.finished(32_000, "room.closed"),
      )
      expect(await callOf(database, story.callId)).toMatchObject({
        status: "completed",
        ring_ms: "2500",
        duration_ms: "9400",
        hung_up_by: "caller",
        lead_status: "completed",
      })
      expect(await sessionOf(database, story.room.sid)).toMatchObject({ status: "stopped" })
      const aborted = makeStory("+15551230033")
      await play(eventsPath, aborted.joined(100), aborted.aborted(1_000, "participant.connection_aborted"))
      expect(await callOf(database, aborted.callId)).toMatchObject({ status: "failed" })
    })

    it("nothing of what happens a lot, or in rooms of other names", async () => {
      const counts = () =>
        database.query("SELECT (SELECT count(*) FROM calls) AS c, (SELECT count(*) FROM sessions) AS s")
      const before = await counts()
      for (const event of ["track_published", "track_unpublished", "agent_job_started", "something_new"]) {
        for (const path of paths) await record(service, path, { ...makeStory().joined(), event })
      }
      expect(await counts()).toEqual(before)
      const story = makeStory()
      const meeting = { ...story.joined(), room: { ...story.room, name: "a meeting" } }
      for (const path of paths) await record(service, path, meeting)
      expect(await callOf(database, story.callId)).toBeUndefined()
    })

    it("that a leg which we dialed is no call of ours, whichever URL hears of it first", async () => {
      for (const path of recordingPaths) {
        const callId = unique("SCL")
        const dialed = joinEvent({ attributes: { "sip.callID": callId, "sip.callStatus": "dialing" } })
        await record(service, path, dialed)
        expect(await callOf(database, callId)).toMatchObject({ direction: "outbound", status: null })
        const picksUp = joinEvent({
          attributes: { "sip.callID": callId, "sip.callStatus": "active" },
          room: dialed.room,
        })
        expect((await service.ring(picksUp)).body).toBe('{"ok":true}')
        expect(relaysOf(callId)).toBe(0)
      }
    })
  })

  describe("together with the one that dispatches", () => {
    const stateOf = async (callId: string) => (await callOf(database, callId))?.["state"]

    it("neither of them dispatches, and both record", async () => {
      for (const path of recordingPaths) {
        const join = joinEvent({ callId: unique("SCL_recorded") })
        await record(service, path, join)
        const callId = join.participant.attributes["sip.callID"] ?? ""
        expect(await callOf(database, callId)).toMatchObject({ state: "none", status: "ringing" })
        expect(relaysOf(callId)).toBe(0)
      }
    })

    it.each([
      ["events", [eventsPath]],
      ["sessions", [sessionsPath]],
      ["both of them", recordingPaths],
    ])("a call that %s heard of first is still handed over, once", async (_, first) => {
      const join = joinEvent({ callId: unique("SCL_first") })
      const callId = join.participant.attributes["sip.callID"] ?? ""
      for (const path of first) await record(service, path, join)
      const answered = await service.ring(join)
      expect([answered.status, answered.replayed]).toEqual([200, false])
      const again = await service.ring(join)
      expect([again.body, again.replayed]).toEqual([answered.body, true])
      for (const path of recordingPaths) await record(service, path, join)
      expect(relaysOf(callId)).toBe(1)
      expect(await stateOf(callId)).toBe("accepted")
    })

    it("a call whose events come to all three at once is one row, handed over once", async () => {
      for (let round = 0; round < 10; round++) {
        const story = makeStory(`+1555125${1000 + (made++ % 9000)}`)
        const everywhere = (event: unknown) => Promise.all(paths.map((path) => post(path, event)))
        const told = [
          ...(await everywhere(story.started())),
          ...(await everywhere(story.joined(100))),
          ...(await everywhere(story.answered(2_600))),
          ...(await everywhere(story.left(12_000, "hangup", "CLIENT_INITIATED"))),
          ...(await everywhere(story.finished(32_000))),
        ]
        expect(told.map(({ status }) => status)).toEqual(told.map(() => 200))
        expect(relaysOf(story.callId)).toBe(1)
        expect(await callOf(database, story.callId)).toMatchObject({
          state: "accepted",
          target: "fleet",
          status: "completed",
          ring_ms: "2500",
          duration_ms: "9400",
          answerers: 1,
          lead_status: "completed",
        })
        const rows = await database.query<{ calls: string; sessions: string; answerers: string }>(
          `SELECT (SELECT count(*) FROM calls WHERE room_name = $1) AS calls,
             (SELECT count(*) FROM sessions WHERE room_name = $1) AS sessions,
             (SELECT count(*) FROM answerers WHERE room_key = $2) AS answerers,
             (SELECT count(*) FROM leads WHERE number = $3) AS leads`,
          [story.room.name, story.room.sid, story.caller],
        )
        expect(rows).toEqual([{ calls: "1", sessions: "1", answerers: "1", leads: "1" }])
      }
    })

    it("a real call, as it was recorded, is one row, handed over once", async () => {
      for (const { body } of recorded("answered-by-agent")) {
        for (const path of paths) expect((await post(path, body)).status).toBe(200)
      }
      expect(relaysOf("SCL_kt9VMibtvTwe")).toBe(1)
      expect(await callOf(database, "SCL_kt9VMibtvTwe")).toMatchObject({
        state: "accepted",
        status: "completed",
        hung_up_by: "caller",
        answerers: 1,
      })
      expect(await sessionOf(database, "RM_xrxwaNjhjaJz")).toMatchObject({ status: "stopped" })
    })

    it("a call that no worker could take is handed over by the next delivery, whatever was recorded", async () => {
      const join = joinEvent({ callId: unique("SCL_refused") })
      const callId = join.participant.attributes["sip.callID"] ?? ""
      worker.behaviour.dispatch = respond(429, { error: "busy" })
      for (const path of recordingPaths) await record(service, path, join)
      expect((await service.ring(join)).status).toBe(429)
      worker.behaviour.dispatch = respond(200, { ok: true })
      for (const path of recordingPaths) await record(service, path, leaveOf(join))
      expect(await stateOf(callId)).toBe("rejected")
      expect((await service.ring(join)).replayed).toBe(true)
      expect(relaysOf(callId)).toBe(1)
    })

    it("a call whose caller has left before it could be handed over never is", async () => {
      const join = joinEvent({ callId: unique("SCL_gone") })
      await record(service, eventsPath, leaveOf(join))
      const answered = await service.ring(join)
      expect([answered.status, answered.replayed, JSON.parse(answered.body).outcome]).toEqual([
        200,
        true,
        "left",
      ])
      expect(relaysOf(join.participant.attributes["sip.callID"] ?? "")).toBe(0)
    })
  })

  describe("take anything that is signed:", () => {
    const texts: Record<string, string> = {
      "a NUL": "\0",
      "half a surrogate pair": "call-\ud800",
      "300 kB": `call-${incompressible}`,
      "the key of a prototype": "__proto__",
      emoji: "call-☎️👩‍👩‍👧",
      SQL: "call-'; DROP TABLE calls; --",
      nothing: "",
    }
    const times = [0, -1, 1.5, 1e300, "1e5", "0x10", "-1", "9007199254740991", "9".repeat(40), "soon", null]
    type Part = "room" | "participant" | "event" | "attributes"
    const fields: ReadonlyArray<readonly [Part, string]> = [
      ["event", "id"],
      ["room", "sid"],
      ["room", "name"],
      ["participant", "sid"],
      ["participant", "identity"],
      ["participant", "kind"],
      ["participant", "disconnectReason"],
      ["attributes", "sip.callID"],
      ["attributes", "sip.callIDFull"],
      ["attributes", "sip.callStatus"],
      ["attributes", "sip.phoneNumber"],
      ["attributes", "sip.trunkPhoneNumber"],
      ["attributes", "sip.trunkID"],
      ["attributes", "sip.ruleID"],
    ]
    const timeFields: ReadonlyArray<readonly [Part, string]> = [
      ["event", "createdAt"],
      ["room", "creationTime"],
      ["room", "creationTimeMs"],
      ["participant", "joinedAt"],
      ["participant", "joinedAtMs"],
    ]
    const joinWith = (part: Part, field: string, value: unknown) => {
      const plain = joinEvent()
      return part === "attributes"
        ? joinEvent({ attributes: { ...plain.participant.attributes, [field]: String(value) } })
        : joinEvent({ [part]: { [field]: value } })
    }
    const asAll = (join: JoinEvent) => [
      join,
      leaveOf(join),
      { ...join, event: "participant_connection_aborted" },
      { ...join, event: "room_started" },
      { ...join, participant: { ...join.participant, kind: "AGENT" } },
      { ...join, event: "room_finished" },
    ]
    const expectTaken = async (join: JoinEvent) => {
      for (const event of asAll(join)) {
        const told = await Promise.all(paths.map((path) => post(path, event)))
        expect(told.map(({ status }) => status)).toEqual([200, 200, 200])
      }
    }

    it.each(fields.map(([part, field]) => [field, part] as const))("any text as %s", async (field, part) => {
      for (const text of Object.values(texts)) await expectTaken(joinWith(part, field, text))
    })

    it.each(timeFields.map(([part, field]) => [field, part] as const))("any %s", async (field, part) => {
      for (const time of times) await expectTaken(joinWith(part, field, time))
    })
  })

  it.each(recordingPaths)("%s answers other methods with 405", async (path) => {
    for (const method of ["GET", "PUT", "PATCH", "DELETE"]) {
      const response = await fetch(service.url + path, { method })
      const { detail, ...rest } = (await response.json()) as Record<string, unknown>
      expect([response.status, response.headers.get("allow"), response.headers.get("content-type")]).toEqual([
        405,
        "POST",
        "application/problem+json",
      ])
      expect(rest).toEqual({ type: "about:blank", title: "Method Not Allowed", status: 405 })
      expect(detail).toBe(`Only POST ${path}`)
    }
  })

  it("and nothing of all this was an error of ours", () => {
    const errors = service.log.filter(({ level }) => level === "error" || level === "fatal")
    // That the database was slow is no fault of these.
    expect(errors.filter(({ message }) => message !== "Database not usable, trying again")).toEqual([])
  })
})

describe("the id of a failed session webhook", () => {
  it("stands in the log as it was answered, whatever its letters", async () => {
    const written: Array<string> = []
    const log = vi.spyOn(console, "log").mockImplementation((line: string) => {
      written.push(line)
    })
    const ids: Array<string> = []
    try {
      const failing = Effect.gen(function* () {
        for (let round = 0; round < 20_000; round++) {
          const response = HttpServerResponse.toWeb(yield* sessionFailure({ _tag: "TooLarge" }))
          const { erresid } = (yield* Effect.promise(() => response.json())) as { readonly erresid: string }
          ids.push(erresid)
        }
      })
      const logging = loggingLayer({ production: true, logLevel: "Info" })
      await Effect.runPromise(Effect.provide(failing, logging))
    } finally {
      log.mockRestore()
    }
    const inLog = written.map((line): unknown => JSON.parse(line).erresid)
    expect(ids.filter((id, index) => inLog[index] !== id)).toEqual([])
  })
})

describe("a database that is away", () => {
  const cleanUps: Array<() => unknown> = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })

  const behindForwarder = async (open: boolean) => {
    const database = await makePostgresDatabase()
    cleanUps.push(() => database.drop())
    await seed(database)
    const worker = await startWorker()
    cleanUps.push(() => worker.stop())
    const url = new URL(database.url)
    const forwarder = await startForwarder({ host: url.hostname, port: Number(url.port) }, open)
    cleanUps.push(() => forwarder.cut().catch(() => {}))
    url.port = String(forwarder.port)
    const service = await startService({ DATABASE_URL: url.href, ...patient, CORE_FLEET: worker.url })
    cleanUps.push(() => service.stop("SIGKILL"))
    return { database, forwarder, service, worker }
  }
  const ready = (service: Service) =>
    eventually("ready", async () => (await service.get("/readyz")).status === 200)

  it("later: what is only recorded is answered 200 at all three, and written once it is back", async () => {
    const { database, forwarder, service, worker } = await behindForwarder(true)
    await ready(service)
    const story = makeStory("+15551230040")
    expect((await service.ring(story.joined(100))).status).toBe(200)
    await forwarder.cut()
    const only = [
      story.started(),
      story.answered(2_600),
      story.left(12_000, "hangup", "CLIENT_INITIATED"),
      story.finished(32_000),
      { ...story.joined(), event: "track_published" },
    ]
    for (const event of only) for (const path of paths) await record(service, path, event)
    // A call that nobody dispatches yet: only the two that record may say yes to it.
    const other = makeStory("+15551230041")
    for (const path of recordingPaths) await record(service, path, other.joined(100))
    expect((await callOf(database, story.callId))?.["status"]).toBe("ringing")
    await forwarder.restore()
    // Once nothing waits any more, whoever asks is answered by the database again.
    await eventually("nothing waits", async () =>
      /^switchhook_backlog\{kind="claim"\} 0\n.*kind="story"\} 0$/m.test(
        (await service.get("/metrics")).text,
      ),
    )
    expect(await callOf(database, story.callId)).toMatchObject({
      state: "accepted",
      status: "completed",
      ring_ms: "2500",
      duration_ms: "9400",
      answerers: 1,
      lead_status: "completed",
    })
    expect(await callOf(database, other.callId)).toMatchObject({
      state: "none",
      status: "ringing",
      lead_status: "calling",
    })
    expect(await sessionOf(database, story.room.sid)).toMatchObject({ status: "stopped" })
    expect(worker.seen).toHaveLength(1)
    const again = JSON.parse((await sendSigned(service, sessionsPath, makeStory().started())).text)
    expect(again.results).toMatchObject({ action: "status_updated", old_status: "ready", new_status: "live" })
  })

  it("from the start: 503 in each URL's own form, but for what needs no database", async () => {
    const { database, forwarder, service } = await behindForwarder(false)
    const story = makeStory("+15551230042")
    expectProblem(
      await sendSigned(service, eventsPath, story.joined()),
      503,
      "Service Unavailable",
      "Database unavailable",
    )
    const told = await sendSigned(service, sessionsPath, story.started())
    const { erresid, ...rest } = JSON.parse(told.text)
    expect([told.status, told.type, rest]).toEqual([
      503,
      "application/json",
      { success: false, errcode: "E_WEBHOOK_UNAVAILABLE", errmesg: "Database unavailable" },
    ])
    await eventually("the log's line", () => service.log.some((line) => line["erresid"] === erresid))
    for (const path of paths)
      await record(service, path, { ...joinEvent(), event: "track_published" } satisfies JoinEvent)
    await forwarder.restore()
    await ready(service)
    for (const path of recordingPaths) await record(service, path, story.joined())
    expect(await callOf(database, story.callId)).toMatchObject({ status: "ringing" })
  })
})
