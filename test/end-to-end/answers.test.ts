// Every row of the pipeline's table, over HTTP, against the started service, on Node and on Deno.

import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { type JoinEvent, joinEvent } from "../support/events.ts"
import { runtimes } from "../support/processes.ts"
import { type Service, startService, toBytes } from "../support/service.ts"
import { makeToken, type TokenParts } from "../support/tokens.ts"
import { eventually } from "../support/waiting.ts"
import { bytes, hangUp, seenByCall, startWorker } from "../support/workers.ts"

describe.each(runtimes)("the webhook on %s", (runtime) => {
  let database: PostgresDatabase
  let worker: SampleWorker
  let service: Service

  beforeAll(async () => {
    database = await makePostgresDatabase()
    worker = await startWorker()
    service = await startService(
      {
        ...database.env,
        CORE_FLEET: JSON.stringify([{ url: worker.url, name: "the worker" }]),
        LIVEKIT_KEYS: "newkey:new-secret-of-the-rotation",
        LIVEKIT_OUTBOUND_TRUNK_ID: "ST_out, ST_out2",
      },
      runtime,
    )
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
    await database.query(
      "INSERT INTO carriers (id, name, lk_inbound_trunk_id) VALUES (gen_random_uuid(), 'one', 'ST_hides'), (gen_random_uuid(), 'empty', 'ST_empty')",
    )
    await database.query(
      `INSERT INTO dids (number, raw_number, carrier_id, position)
       SELECT n, n, id, p FROM carriers, (VALUES ('+18885550299', 1), ('+18885550200', 0)) AS d (n, p) WHERE name = 'one'`,
    )
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })
  beforeEach(() => {
    worker.behaviour.dispatch = respond(200, { ok: true, room: "taken" })
  })

  const send = async (body: Uint8Array, headers: Record<string, string>) => {
    const response = await fetch(service.webhook, {
      method: "POST",
      headers,
      body: new Uint8Array(body),
      redirect: "manual",
    })
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      headers: response.headers,
      text: await response.text(),
    }
  }
  const sendWith = (parts: TokenParts, prefix = "") => {
    const body = toBytes({ event: "room_started" })
    return send(body, { authorization: prefix + makeToken(body, parts) })
  }
  const expectProblem = (
    answered: Awaited<ReturnType<typeof send>>,
    status: number,
    title: string,
    detail: string,
  ) => {
    expect(answered.status).toBe(status)
    expect(answered.type).toBe("application/problem+json")
    expect(JSON.parse(answered.text)).toEqual({ type: "about:blank", title, status, detail })
    expect(answered.headers.get("retry-after")).toBeNull()
  }
  const relayOf = async (join: JoinEvent) => {
    const before = worker.seen.length
    const answered = await service.ring(join)
    return { answered, relayed: worker.seen.slice(before).map((seen) => seen.body) }
  }
  const expectIgnored = async (join: JoinEvent) => {
    const { answered, relayed } = await relayOf(join)
    expect([answered.status, answered.body, answered.replayed]).toEqual([200, '{"ok":true}', false])
    expect(relayed).toEqual([])
  }

  describe("authenticate", () => {
    it("answers 401 Missing auth without a token", async () => {
      const body = toBytes(joinEvent())
      expectProblem(await send(body, {}), 401, "Unauthorized", "Missing auth")
      expectProblem(await send(body, { authorization: "Bearer " }), 401, "Unauthorized", "Missing auth")
    })

    it.each<[string, TokenParts]>([
      ["a wrong secret", { secret: "not-the-secret-of-this-key" }],
      ["an issuer that is no key of ours", { key: "somebody" }],
      ["one live key's issuer with the other's secret", { key: "newkey" }],
      ["HS512", { alg: "HS512" }],
      ["no algorithm", { alg: "none" }],
      ["a token that expired two minutes ago", { claims: { exp: Math.floor(Date.now() / 1000) - 120 } }],
      ["a token that never expires", { claims: { exp: undefined } }],
      ["a token that is not valid yet", { claims: { nbf: Math.floor(Date.now() / 1000) + 3600 } }],
      ["a token without a hash", { claims: { sha256: undefined } }],
      ["the hash of other bytes", { claims: { sha256: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" } }],
      ["a critical header that nobody knows", { header: { crit: ["b65"], b65: true } }],
    ])("answers 401 Invalid signature to %s", async (_, parts) => {
      expectProblem(await sendWith(parts), 401, "Unauthorized", "Invalid signature")
    })

    it("answers 401 Invalid signature to a body with one byte changed, and relays nothing", async () => {
      const body = toBytes(joinEvent())
      const changed = new Uint8Array(body)
      changed[changed.length - 10]! ^= 1
      const before = worker.seen.length
      expectProblem(
        await send(changed, { authorization: makeToken(body) }),
        401,
        "Unauthorized",
        "Invalid signature",
      )
      expect(worker.seen.length).toBe(before)
    })

    it.each([["garbage"], ["a.b"], ["a.b.c.d"], ["Basic YTpi"], [`${"x".repeat(4000)}.y.z`]])(
      "answers 401 Invalid signature to %.20s",
      async (authorization) => {
        expectProblem(await send(toBytes("{}"), { authorization }), 401, "Unauthorized", "Invalid signature")
      },
    )

    it.each([
      ["dispatches", "/api/v1/livekit/webhook"],
      ["records", "/api/v1/webhooks/livekit/events"],
    ])("counts each request without an event once, where it %s", async (_, path) => {
      const counted = async () => {
        const { text } = await service.get("/metrics")
        return ["missing-auth", "invalid-signature", "invalid-payload"].map((outcome) => {
          const series = `switchhook_events_total{event="none",outcome="${outcome}"} `
          const line = text.split("\n").find((each) => each.startsWith(series))
          return line === undefined ? 0 : Number(line.slice(series.length))
        })
      }
      const statusOf = async (body: Uint8Array<ArrayBuffer>, headers: Record<string, string>) =>
        (await fetch(service.url + path, { method: "POST", headers, body })).status
      const before = await counted()
      const body = toBytes("no event")
      expect(await statusOf(body, {})).toBe(401)
      expect(await statusOf(body, { authorization: "Bearer" })).toBe(401)
      expect(await statusOf(body, { authorization: makeToken(body, { secret: "wrong" }) })).toBe(401)
      expect(await statusOf(body, { authorization: makeToken(body) })).toBe(400)
      const after = await counted()
      expect(after.map((count, at) => count - before[at]!)).toEqual([2, 1, 1])
    })

    it.each<[string, TokenParts, string]>([
      ["the token alone", {}, ""],
      ["a token behind Bearer", {}, "Bearer "],
      ["the second live key", { key: "newkey", secret: "new-secret-of-the-rotation" }, ""],
      ["a clock 50 s off", { claims: { exp: Math.floor(Date.now() / 1000) - 50 } }, ""],
    ])("accepts %s", async (_, parts, prefix) => {
      const answered = await sendWith(parts, prefix)
      expect([answered.status, answered.text, answered.type]).toEqual([
        200,
        '{"ok":true}',
        "application/json",
      ])
    })
  })

  describe("the body", () => {
    it.each([
      ["not JSON", "{"],
      ["a list", "[]"],
      ["no event", "{}"],
      ["an event that is no text", '{"event":1}'],
      ["nothing", ""],
    ])("that is %s, though signed, is answered 400 Invalid payload", async (_, body) => {
      const sent = toBytes(body)
      expectProblem(
        await send(sent, { authorization: makeToken(sent) }),
        400,
        "Bad Request",
        "Invalid payload",
      )
    })

    it("of more than 1 MiB is answered 413", async () => {
      const body = toBytes(JSON.stringify({ event: "room_started", padding: "x".repeat(1024 * 1024) }))
      expectProblem(
        await send(body, { authorization: makeToken(body) }),
        413,
        "Content Too Large",
        "Payload too large",
      )
    })

    it("of just under 1 MiB is accepted", async () => {
      const body = toBytes(JSON.stringify({ event: "room_started", padding: "x".repeat(1024 * 1024 - 100) }))
      expect((await send(body, { authorization: makeToken(body) })).status).toBe(200)
    })

    it.each<[string, (json: string) => Uint8Array]>([
      ["a BOM", (json) => Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from(json)])],
      ["invalid UTF-8", (json) => Buffer.from(json.replace("Phone", "Ph\xffone"), "latin1")],
      ["odd white space", (json) => Buffer.from(` \r\n\t${json.replaceAll('":', '"  :\n ')}\n\n`)],
      ["unknown fields", (json) => Buffer.from(`{"unheardOf":{"a":[1,{"b":null}]},${json.slice(1)}`)],
    ])("with %s is verified over the bytes that were sent, and dispatched", async (_, change) => {
      const join = joinEvent()
      const body = change(JSON.stringify(join))
      const before = worker.seen.length
      const answered = await send(body, { authorization: makeToken(body) })
      expect(answered.status).toBe(200)
      expect(worker.seen.slice(before).map((seen) => seen.body["call_id"])).toEqual([
        join.participant.attributes["sip.callID"],
      ])
    })
  })

  describe("a dry run", () => {
    const dryRun = async (body: Uint8Array, authorization = makeToken(body)) => {
      const answered = await send(body, { authorization, "switchhook-dry-run": "true" })
      return { ...answered, body: JSON.parse(answered.text) }
    }

    it("shows what would be decided, and writes and relays nothing", async () => {
      const join = joinEvent()
      const before = worker.seen.length
      const { body, status } = await dryRun(toBytes(join))
      expect(status).toBe(200)
      expect(body).toEqual({
        ok: true,
        dry_run: true,
        outcome: "would be handed over",
        explanation: {
          dialed_from: "sip.trunkPhoneNumber",
          trunk: "ST_in",
          carrier: null,
          route: {
            number: "+15557654321",
            did: null,
            tenant: null,
            campaign: null,
            tenant_name: null,
            campaign_name: null,
            target: "fleet",
            agent: "telephony-agent",
            agent_from: "default",
            error: "Phone number not found in database",
          },
          considered: [{ worker: "the worker", verdict: "picked", load: expect.any(Number) }],
          took_ms: {
            authenticate: expect.any(Number),
            route: expect.any(Number),
            select: expect.any(Number),
          },
        },
        why: [
          "dialed +15557654321 (sip.trunkPhoneNumber), trunk ST_in",
          "carrier: none that we know",
          "number: Phone number not found in database: answered by a worker of the fleet",
          expect.stringMatching(/^worker the worker picked, load \d+ %$/),
          expect.stringMatching(/^took: authenticate [\d.]+ ms, route [\d.]+ ms, select [\d.]+ ms$/),
        ],
      })
      expect(worker.seen.length).toBe(before)
      const key = join.participant.attributes["sip.callID"]
      const rows = () => database.query("SELECT explanation FROM calls WHERE call_key = $1", [key])
      expect(await rows()).toEqual([])

      // The call itself keeps the same.
      await service.ring(join)
      const [row] = await rows()
      const { took_ms, ...decided } = body.explanation
      expect(row?.["explanation"]).toMatchObject({
        ...decided,
        considered: [{ worker: "the worker", verdict: "picked" }],
      })
      // And what it took since.
      expect(row?.["explanation"].took_ms).toEqual({
        ...Object.fromEntries(Object.keys(took_ms).map((stage) => [stage, expect.any(Number)])),
        claim: expect.any(Number),
        relay: expect.any(Number),
      })
    })

    it("says which filter passes an event by", async () => {
      expect((await dryRun(toBytes(joinEvent({ room: { name: "meeting" } })))).body).toEqual({
        ok: true,
        dry_run: true,
        ignored: { stage: "room", why: expect.any(String) },
      })
    })

    it("needs a signature like any other webhook", async () => {
      const body = toBytes(joinEvent())
      expectProblem(await dryRun(body, "x.y.z"), 401, "Unauthorized", "Invalid signature")
    })
  })

  describe("filters", () => {
    it.each(["participant_left", "room_started", "track_published", "an_event_of_tomorrow"])(
      "ignore %s",
      (event) => expectIgnored(joinEvent({ event: { event } })),
    )

    it.each(["STANDARD", "AGENT", "EGRESS", "INGRESS", "A_KIND_OF_TOMORROW", undefined])(
      "ignore a participant of kind %s",
      (kind) => expectIgnored(joinEvent({ participant: { kind } })),
    )

    it.each(["meeting", "Call-1", "xcall-1", ""])("ignore the room %j", (name) =>
      expectIgnored(joinEvent({ room: { name } })),
    )

    it("ignore a leg that is being dialed", () =>
      expectIgnored(joinEvent({ attributes: { "sip.callID": "SCL_dialing", "sip.callStatus": "dialing" } })))

    it("ignore a leg on a trunk listed as outbound", () =>
      expectIgnored(
        joinEvent({ attributes: { "sip.callID": "SCL_out", "sip.trunkID": "ST_out2", "sip.ruleID": "R" } }),
      ))

    it("ignore an outbound leg that rejoins as active", async () => {
      const room = { sid: "RM_rejoin", name: "call-rejoin" }
      await expectIgnored(
        joinEvent({ room, attributes: { "sip.callID": "SCL_again", "sip.callStatus": "dialing" } }),
      )
      await expectIgnored(
        joinEvent({ room, attributes: { "sip.callID": "SCL_again", "sip.callStatus": "active" } }),
      )
    })

    it("ignore a leg without a dispatch rule in a room that holds a call", async () => {
      const room = { sid: "RM_held", name: "call-held" }
      expect((await relayOf(joinEvent({ room }))).relayed).toHaveLength(1)
      await expectIgnored(
        joinEvent({ room, attributes: { "sip.callID": "SCL_transfer", "sip.callStatus": "active" } }),
      )
    })

    it("let the first leg without a dispatch rule pass, and again after it had to wait", async () => {
      const room = { sid: "RM_ruleless", name: "call-ruleless" }
      const join = joinEvent({
        room,
        attributes: { "sip.callID": "SCL_ruleless", "sip.callStatus": "active" },
      })
      expect((await relayOf(join)).relayed).toHaveLength(1)
      await expectIgnored(
        joinEvent({ room, attributes: { "sip.callID": "SCL_second", "sip.callStatus": "active" } }),
      )
      expect((await relayOf(join)).answered.replayed).toBe(true)
    })
  })

  describe("attributes", () => {
    const base = { "sip.callID": "", "sip.ruleID": "SDR_1" }
    let calls = 0
    const attributes = (more: Record<string, string>) => ({
      ...base,
      "sip.callID": `SCL_attr_${runtime}_${calls++}`,
      ...more,
    })

    it.each<[string, Record<string, string>, string, string]>([
      ["sip.phoneNumber", { "sip.phoneNumber": "+1 (555) 010" }, "sip_+15551234567", "+1 (555) 010"],
      ["the identity sip_", {}, "sip_+15551234567", "+15551234567"],
      ["the identity sip-", {}, "sip-15551234567", "15551234567"],
      ["nothing, for a name", {}, "sip_alice.b-c", ""],
      ["nothing, for a hidden caller", {}, "sip_7a8e1bad42416f9a", ""],
      ["nothing, for a hidden caller whose hash is all digits", {}, "sip_1234567812345678", ""],
    ])("take the caller from %s", async (_, more, identity, expected) => {
      const { relayed } = await relayOf(
        joinEvent({ attributes: attributes(more), participant: { identity } }),
      )
      expect(relayed.map((body) => body["caller_number"])).toEqual([expected])
    })

    it.each<[string, Record<string, string>, string]>([
      [
        "sip.calledNumber",
        { "sip.calledNumber": "8585550100", "sip.trunkPhoneNumber": "+1999" },
        "8585550100",
      ],
      [
        "sip.trunkPhoneNumber",
        { "sip.trunkPhoneNumber": "8885550300", "sip.trunkID": "ST_hides" },
        "8885550300",
      ],
      ["the carrier's first DID", { "sip.trunkID": "ST_hides" }, "+18885550200"],
      ["nothing, for a carrier without DIDs", { "sip.trunkID": "ST_empty" }, ""],
      ["nothing, for a trunk of no carrier", { "sip.trunkID": "ST_unknown" }, ""],
      ["nothing, without a trunk", {}, ""],
    ])("take the dialed number from %s", async (_, more, expected) => {
      const join = () => joinEvent({ attributes: attributes(more) })
      // The carriers were written while the service ran: in force within 5 s.
      const { relayed } = await eventually(
        "the carriers in force",
        async () => {
          const got = await relayOf(join())
          return got.relayed[0]?.["dialed_number"] === expected ? got : undefined
        },
        5_000,
      )
      expect(relayed).toHaveLength(1)
    })

    it("hand a call without any id over once", async () => {
      const join = joinEvent({ attributes: { "sip.ruleID": "SDR_1" } })
      const { answered, relayed } = await relayOf(join)
      expect(answered.status).toBe(200)
      expect(relayed).toEqual([
        { room_name: join.room.name, caller_number: "+15551234567", dialed_number: "", call_id: "" },
      ])
      expect((await relayOf(join)).relayed).toEqual([])
    })
  })

  describe("the worker's answer", () => {
    it.each([
      [200, { agent: "ä", nested: { n: [1, 2] } }],
      [201, { created: true }],
      [404, { error: "no such room" }],
      [429, { error: "busy" }],
      [500, { error: "broken" }],
      [503, { error: "starting" }],
    ])("of %d comes back as it came", async (status, body) => {
      worker.behaviour.dispatch = (_, response) => {
        response.writeHead(status, { "content-type": "application/json; charset=utf-8", "retry-after": "1" })
        response.end(JSON.stringify(body))
      }
      const { answered, relayed } = await relayOf(joinEvent())
      expect([answered.status, answered.body, answered.replayed]).toEqual([
        status,
        JSON.stringify(body),
        false,
      ])
      expect(relayed).toHaveLength(1)
      await resetBreaker()
    })

    it("passes its bytes and content type on, and no Retry-After", async () => {
      worker.behaviour.dispatch = bytes(429, "müde", {
        "content-type": "text/plain; charset=latin1",
        "retry-after": "7",
      })
      const body = toBytes(joinEvent())
      const answered = await send(body, { authorization: makeToken(body) })
      expect([answered.status, answered.type, answered.text]).toEqual([
        429,
        "text/plain; charset=latin1",
        "müde",
      ])
      expect(answered.headers.get("retry-after")).toBeNull()
    })

    it("of 204 comes back without a body, and is replayed as 200", async () => {
      worker.behaviour.dispatch = bytes(204, "", {})
      const join = joinEvent()
      const { answered } = await relayOf(join)
      expect([answered.status, answered.body]).toEqual([204, ""])
      const again = await relayOf(join)
      expect([again.answered.status, again.answered.body, again.answered.replayed]).toEqual([200, "", true])
    })

    it("that is a redirect is not followed: 502, and the call is rejected for good", async () => {
      worker.behaviour.dispatch = bytes(307, "", { location: `${worker.url}/livekit/dispatch` })
      const join = joinEvent()
      const body = toBytes(join)
      expectProblem(
        await send(body, { authorization: makeToken(body) }),
        502,
        "Bad Gateway",
        "Dispatch failed",
      )
      const again = await relayOf(join)
      expect(again.relayed).toEqual([])
      expect(JSON.parse(again.answered.body)).toMatchObject({
        replayed: true,
        outcome: "rejected",
        status: 307,
      })
      await resetBreaker()
    })

    it("that never comes is 502 Dispatch failed", async () => {
      worker.behaviour.dispatch = hangUp
      const body = toBytes(joinEvent())
      expectProblem(
        await send(body, { authorization: makeToken(body) }),
        502,
        "Bad Gateway",
        "Dispatch failed",
      )
      await resetBreaker()
    })

    const resetBreaker = async () => {
      worker.behaviour.dispatch = respond(200, { ok: true })
      await relayOf(joinEvent())
    }
  })

  describe("other requests", () => {
    it("have a clear answer", async () => {
      const get = await fetch(service.webhook)
      expect([get.status, get.headers.get("allow"), get.headers.get("content-type")]).toEqual([
        405,
        "POST",
        "application/problem+json",
      ])
      const nothing = await fetch(`${service.url}/nothing`)
      expect([nothing.status, nothing.headers.get("content-type")]).toEqual([404, "application/problem+json"])
      expect(JSON.parse((await service.get("/healthz")).text)).toMatchObject({ status: "ok" })
    })
  })

  // Last, because the fleet of all tests above goes away.
  describe("the fleet", () => {
    const setFleet = (value: unknown) =>
      database.query("UPDATE system_settings SET value = $1::jsonb WHERE key = 'core_fleet'", [
        JSON.stringify(value),
      ])
    const ringUntil = (what: string, detail: string) =>
      eventually(
        what,
        async () => {
          const answered = await service.ring(joinEvent())
          return JSON.parse(answered.body).detail === detail ? answered : undefined
        },
        5_000,
      )

    it("that is empty is 503 No fleet, within 5 s of the change", async () => {
      await setFleet([])
      await ringUntil("no fleet", "No fleet")
      const body = toBytes(joinEvent())
      expectProblem(
        await send(body, { authorization: makeToken(body) }),
        503,
        "Service Unavailable",
        "No fleet",
      )
      expect(JSON.parse((await service.get("/readyz")).text).reasons).toEqual([
        "No fleet: the setting core_fleet is empty",
      ])
    })

    it("without a healthy worker is 503 No healthy fleet", async () => {
      await setFleet([`${worker.url}/nothing-here`, "ftp://nonsense"])
      await ringUntil("no healthy fleet", "No healthy fleet")
      const body = toBytes(joinEvent())
      expectProblem(
        await send(body, { authorization: makeToken(body) }),
        503,
        "Service Unavailable",
        "No healthy fleet",
      )
      expect(service.log.some((line) => line.message === "Left out of the fleet")).toBe(true)
    })

    it("is asked again by the next delivery of a call that found nobody", async () => {
      const join = joinEvent()
      expect((await service.ring(join)).status).toBe(503)
      await setFleet(worker.url)
      const answered = await eventually("the call is taken", async () => {
        const answered = await service.ring(join)
        return answered.status === 200 ? answered : undefined
      })
      expect(JSON.parse(answered.body)).toEqual({ ok: true, room: "taken" })
      // By this delivery or by the watch, whichever came first.
      expect(seenByCall(worker).get(join.participant.attributes["sip.callID"] ?? "")).toBe(1)
    })
  })
})
