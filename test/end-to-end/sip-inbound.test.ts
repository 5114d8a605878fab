// Which agent is to be dispatched, as whoever asks is told it over HTTP, and what stands in the database afterwards.

import { createHmac } from "node:crypto"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { Effect } from "effect"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { migrate } from "../../src/database/migrations.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { startForwarder } from "../support/forwarder.ts"
import { runtimes } from "../support/processes.ts"
import { apiSecret, type Service, startService, toBytes } from "../support/service.ts"
import { makeToken } from "../support/tokens.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

const webhookSecret = "a-secret-for-those-who-ask"

const hmac = (body: Uint8Array, secret = apiSecret) => createHmac("sha256", secret).update(body).digest("hex")

/** What is asked; unknown, because it may be anything. */
type Question = Record<string, unknown>

interface Answer {
  readonly agent_name: string
  readonly metadata: string
  readonly attributes: Record<string, string>
  readonly error?: string
}

interface Told {
  readonly status: number
  readonly type: string | null
  readonly text: string
  readonly tookMs: number
}

let asked = 0
const question = (more: Question = {}): Question => ({
  call_id: `asked-${process.pid}-${Date.now()}-${asked++}`,
  from_number: "+15551230001",
  to_number: "+18588796658",
  ...more,
})

const send = async (
  service: Service,
  bytes: Uint8Array<ArrayBuffer>,
  headers: Record<string, string>,
): Promise<Told> => {
  const startedAt = performance.now()
  const response = await fetch(`${service.url}/api/v1/webhooks/livekit/sip-inbound`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: bytes,
  })
  const text = await response.text()
  const tookMs = performance.now() - startedAt
  return { status: response.status, type: response.headers.get("content-type"), text, tookMs }
}

/** Signed with LiveKit's token, which every service here accepts. */
const sendSigned = (service: Service, body: unknown) => {
  const bytes = toBytes(body)
  return send(service, bytes, { authorization: makeToken(bytes) })
}

const answerOf = ({ status, text, type }: Told): Answer => {
  expect([status, type]).toEqual([200, "application/json"])
  return JSON.parse(text)
}

const ask = async (service: Service, body: unknown) => answerOf(await sendSigned(service, body))

const expectProblem = ({ status, text, type }: Told, expected: number, title: string, detail: string) => {
  expect([status, type]).toEqual([expected, "application/problem+json"])
  expect(JSON.parse(text)).toEqual({ type: "about:blank", title, status: expected, detail })
}

/** The numbers of the tests, written before any service starts, so that it reads them at its start. */
const seed = async (database: PostgresDatabase) => {
  const engine = makePostgres(database.url)
  await Effect.runPromise(migrate(engine))
  await engine.close()
  const insert = async (sql: string, values: ReadonlyArray<unknown> = []) => {
    const rows = await database.query<{ id: string }>(`${sql} RETURNING id`, values)
    return rows[0]?.id ?? ""
  }
  const tenant = (name: string, agent: string | null) =>
    insert("INSERT INTO tenants (name, default_agent) VALUES ($1, $2)", [name, agent])
  const campaign = (of: string, name: string, agent: string | null, active = true) =>
    insert("INSERT INTO campaigns (tenant_id, name, agent_name, active) VALUES ($1, $2, $3, $4)", [
      of,
      name,
      agent,
      active,
    ])
  const carrier = await insert("INSERT INTO carriers (name, lk_inbound_trunk_id) VALUES ('one', 'ST_hides')")
  const did = (number: string, of: string | null, to: string | null, position: number | null = null) =>
    insert(
      "INSERT INTO dids (number, raw_number, tenant_id, campaign_id, carrier_id, position) VALUES ($1, $1, $2, $3, $4, $5)",
      [number, of, to, position === null ? null : carrier, position ?? 0],
    )
  const tenants = { rich: await tenant("rich", "tenant-agent"), poor: await tenant("poor", null) }
  const campaigns = {
    spring: await campaign(tenants.rich, "spring", "campaign-agent"),
    quiet: await campaign(tenants.rich, "quiet", null),
    over: await campaign(tenants.rich, "over", "campaign-agent", false),
    poor: await campaign(tenants.poor, "poor", null),
    bare: await campaign(tenants.poor, "bare", "campaign-agent", false),
  }
  const { rich } = tenants
  const dids = {
    spring: await did("+18588796658", rich, campaigns.spring),
    quiet: await did("+18588796659", rich, campaigns.quiet),
    over: await did("+18588796660", rich, campaigns.over),
    tenants: await did("+18588796661", rich, null, 1),
    poor: await did("+18588796662", tenants.poor, campaigns.poor),
    bare: await did("+18588796663", tenants.poor, campaigns.bare),
    nobodys: await did("+18588796664", null, null),
    campaigns: await did("+18588796665", null, campaigns.spring, 0),
  }
  return { tenants, campaigns, dids }
}
type Seeded = Awaited<ReturnType<typeof seed>>

interface CallRow {
  readonly id: string
  readonly lead_id: string | null
  readonly [column: string]: unknown
}

const rowsOf = (database: PostgresDatabase, callId: unknown) =>
  database.query<CallRow>("SELECT * FROM calls WHERE asked_id = $1", [callId])

const leadsOf = (database: PostgresDatabase, number: string) =>
  database.query("SELECT * FROM leads WHERE number = $1", [number])

const countWritten = async (database: PostgresDatabase) => {
  const rows = await database.query(
    "SELECT (SELECT count(*) FROM calls) AS calls, (SELECT count(*) FROM leads) AS leads, (SELECT count(*) FROM call_aliases) AS aliases",
  )
  return rows[0]
}

const metadataKeys = [
  "call_type",
  "campaign_id",
  "from_number",
  "phone_number_id",
  "tenant_id",
  "to_number",
  "trunk_id",
]

/** Unsigned requests of the tests are many and must not be refused for that. */
const patient = { RATE_LIMIT_PER_MINUTE: "1000000" }

// PostgreSQL compresses what it puts into an index: only a long text like this one shows whether it would fit.
const incompressible = Array.from({ length: 4_700 }, (_, index) => hmac(toBytes(String(index)), "x")).join("")

describe.each(runtimes)("whoever asks which agent to dispatch, on %s,", (runtime) => {
  let database: PostgresDatabase
  let service: Service
  let seeded: Seeded

  beforeAll(async () => {
    database = await makePostgresDatabase()
    seeded = await seed(database)
    service = await startService({ ...database.env, ...patient, WEBHOOK_SECRET: webhookSecret }, runtime)
  })
  afterAll(async () => {
    await service?.stop()
    await database?.drop()
  })

  describe("is told", () => {
    type Name = keyof Seeded["dids"]
    type Expected = readonly [agent: string, tenant: "rich" | "poor" | null, campaign: string | null]

    it.each<[string, Name, string, Expected]>([
      ["the campaign's agent", "spring", "+18588796658", ["campaign-agent", "rich", "spring"]],
      [
        "the campaign's, of a tenant it names",
        "campaigns",
        "+18588796665",
        ["campaign-agent", "rich", "spring"],
      ],
      [
        "the tenant's, without one of the campaign",
        "quiet",
        "+18588796659",
        ["tenant-agent", "rich", "quiet"],
      ],
      ["the tenant's, of an inactive campaign", "over", "+18588796660", ["tenant-agent", "rich", "over"]],
      ["the tenant's, without a campaign", "tenants", "+18588796661", ["tenant-agent", "rich", null]],
      ["the default, where neither has one", "poor", "+18588796662", ["telephony-agent", "poor", "poor"]],
      ["the default, of an inactive campaign", "bare", "+18588796663", ["telephony-agent", "poor", "bare"]],
      ["the default, of nobody's number", "nobodys", "+18588796664", ["telephony-agent", null, null]],
    ])("%s", async (_, did, number, [agent, tenant, campaign]) => {
      const { metadata, ...rest } = await ask(
        service,
        question({ to_number: number, trunk_id: "ST_in", from_number: "(555) 123-0002" }),
      )
      expect(rest).toEqual({
        agent_name: agent,
        attributes: { inbound: "true", phone_number: number, caller: "+15551230002" },
      })
      expect(typeof metadata).toBe("string")
      expect(JSON.parse(metadata)).toEqual({
        call_type: "inbound",
        phone_number_id: seeded.dids[did],
        tenant_id: tenant === null ? null : seeded.tenants[tenant],
        campaign_id: campaign === null ? null : seeded.campaigns[campaign as keyof Seeded["campaigns"]],
        from_number: "+15551230002",
        to_number: number,
        trunk_id: "ST_in",
      })
    })

    it("the default for a number that nobody knows, and so", async () => {
      const { metadata, ...rest } = await ask(service, question({ to_number: "(858) 879-0000" }))
      expect(rest).toEqual({
        agent_name: "telephony-agent",
        attributes: { inbound: "true", phone_number: "+18588790000", caller: "+15551230001" },
        error: "Phone number not found in database",
      })
      expect(JSON.parse(metadata)).toEqual({
        call_type: "inbound",
        phone_number_id: null,
        tenant_id: null,
        campaign_id: null,
        from_number: "+15551230001",
        to_number: "+18588790000",
        trunk_id: null,
      })
    })

    it.each([
      "+18588796658",
      "18588796658",
      "8588796658",
      "0018588796658",
      "01118588796658",
      "(858) 879-6658",
      "+1 858 879 6658",
      "858.879.6658",
      "sip:+18588796658@203.0.113.7",
      "sip:18588796658@sip.example.com:5060;transport=udp",
      "<sips:+18588796658@example.com;user=phone>",
      "tel:+1-858-879-6658",
      "+１８５８８７９６６５８",
    ])("of %s what it is told of the number", async (to_number) => {
      const answer = await ask(service, question({ to_number }))
      expect(answer).toMatchObject({
        agent_name: "campaign-agent",
        attributes: { phone_number: "+18588796658" },
      })
      expect(answer.error).toBeUndefined()
      expect(JSON.parse(answer.metadata)).toMatchObject({
        phone_number_id: seeded.dids.spring,
        to_number: "+18588796658",
      })
    })

    it("of an empty to_number what the trunk's number is", async () => {
      const answer = await ask(service, question({ to_number: "", trunk_phone_number: "(858) 879-6661" }))
      expect(answer).toMatchObject({
        agent_name: "tenant-agent",
        attributes: { phone_number: "+18588796661" },
      })
    })

    it("of a to_number what that is, whatever the trunk's number", async () => {
      const answer = await ask(
        service,
        question({ trunk_phone_number: "+18588796661", trunk_id: "ST_hides", room_name: null, timestamp: 1 }),
      )
      expect(answer.attributes["phone_number"]).toBe("+18588796658")
    })

    it("of a hidden number what the first DID of the trunk's carrier is", async () => {
      // The carriers are read beside the start.
      const answer = await eventually(
        "the carriers in force",
        async () => {
          const got = await ask(
            service,
            question({ to_number: "", trunk_phone_number: "", trunk_id: "ST_hides" }),
          )
          return got.error === undefined ? got : undefined
        },
        5_000,
      )
      expect(answer).toMatchObject({
        agent_name: "campaign-agent",
        attributes: { phone_number: "+18588796665" },
      })
      expect(JSON.parse(answer.metadata)).toMatchObject({
        phone_number_id: seeded.dids.campaigns,
        to_number: "+18588796665",
        trunk_id: "ST_hides",
      })
    })

    it("of a hidden number on a trunk of no carrier that it is not found", async () => {
      const answer = await ask(service, question({ to_number: "", trunk_id: "ST_unheard_of" }))
      expect(answer).toMatchObject({
        agent_name: "telephony-agent",
        attributes: { inbound: "true", phone_number: "", caller: "+15551230001" },
        error: "Phone number not found in database",
      })
    })

    it("always a metadata with the same names", async () => {
      for (const to_number of ["+18588796658", "+18588796664", "+18588790000", "", "anonymous"]) {
        const { metadata } = await ask(service, question({ to_number }))
        expect(Object.keys(JSON.parse(metadata)).sort()).toEqual(metadataKeys)
      }
    })
  })

  describe("leaves", () => {
    it("a row of the call log and a lead", async () => {
      const sent = question({
        from_number: "555 123 0010",
        to_number: "sip:8588796658@203.0.113.7",
        trunk_id: "ST_in",
        room_name: "call-asked",
        timestamp: "2026-08-01T10:00:00Z",
      })
      const { metadata } = await ask(service, sent)
      const rows = await rowsOf(database, sent["call_id"])
      expect(rows).toHaveLength(1)
      expect(rows[0]).toMatchObject({
        call_key: sent["call_id"],
        asked_id: sent["call_id"],
        status: "ringing",
        direction: "inbound",
        state: "accepted",
        target: "agent",
        agent_name: "campaign-agent",
        caller: "555 123 0010",
        caller_e164: "+15551230010",
        dialed: "sip:8588796658@203.0.113.7",
        dialed_e164: "+18588796658",
        trunk_id: "ST_in",
        room_name: "call-asked",
        tenant_id: seeded.tenants.rich,
        campaign_id: seeded.campaigns.spring,
        did_id: seeded.dids.spring,
        // Exactly the text that was answered.
        metadata,
      })
      const leads = await leadsOf(database, "+15551230010")
      expect(leads).toHaveLength(1)
      expect(leads[0]).toMatchObject({
        id: rows[0]?.lead_id,
        tenant_id: seeded.tenants.rich,
        campaign_id: seeded.campaigns.spring,
        name: "Inbound Caller +15551230010",
        raw_number: "555 123 0010",
        status: "calling",
      })
    })

    it("one row and one lead, and is told the same, however often it asks", async () => {
      const sent = question({ from_number: "+15551230011", trunk_id: "ST_in", room_name: "call-twice" })
      const first = await sendSigned(service, sent)
      const again = [await sendSigned(service, sent)]
      again.push(...(await Promise.all(Array.from({ length: 8 }, () => sendSigned(service, sent)))))
      expect(new Set(again.map(({ text }) => text))).toEqual(new Set([first.text]))
      expect(await rowsOf(database, sent["call_id"])).toHaveLength(1)
      expect(await leadsOf(database, "+15551230011")).toHaveLength(1)
    })

    it("one row and one lead also where it asks ten times at once", async () => {
      const sent = question({ from_number: "+15551230012", room_name: "call-at-once" })
      const told = await Promise.all(Array.from({ length: 10 }, () => sendSigned(service, sent)))
      expect(told.map(({ status }) => status)).toEqual(told.map(() => 200))
      expect(new Set(told.map(({ text }) => text)).size).toBe(1)
      expect(await rowsOf(database, sent["call_id"])).toHaveLength(1)
      expect(await leadsOf(database, "+15551230012")).toHaveLength(1)
    })

    it("one lead for two calls of one caller to one campaign, and two for two campaigns", async () => {
      const from_number = "+15551230013"
      const first = question({ from_number })
      const second = question({ from_number: "15551230013" })
      const other = question({ from_number, to_number: "+18588796659" })
      for (const sent of [first, second, other]) await ask(service, sent)
      const leads = await Promise.all(
        [first, second, other].map(async (sent) => (await rowsOf(database, sent["call_id"]))[0]?.lead_id),
      )
      expect(leads[0]).toBe(leads[1])
      expect(leads[2]).not.toBe(leads[0])
      expect(await leadsOf(database, from_number)).toHaveLength(2)
    })

    it.each([
      ["a campaign", { from_number: "+15551230014", to_number: "+18588796661" }],
      ["a known number", { from_number: "+15551230014", to_number: "+18588790000" }],
      ["a caller's number", { from_number: "anonymous" }],
      ["a caller", { from_number: "" }],
    ])("a row without a lead, without %s", async (_, more) => {
      const sent = question(more)
      const before = await countWritten(database)
      await ask(service, sent)
      const rows = await rowsOf(database, sent["call_id"])
      expect(rows).toHaveLength(1)
      expect(rows[0]).toMatchObject({ status: "ringing", lead_id: null })
      expect((await countWritten(database))?.["leads"]).toBe(before?.["leads"])
    })

    it("in the row of an inactive campaign the campaign, and a lead", async () => {
      const sent = question({ from_number: "+15551230015", to_number: "+18588796660" })
      await ask(service, sent)
      expect((await rowsOf(database, sent["call_id"]))[0]).toMatchObject({
        campaign_id: seeded.campaigns.over,
        agent_name: "tenant-agent",
      })
      expect(await leadsOf(database, "+15551230015")).toHaveLength(1)
    })

    it("words in the log that an operator looks for, each line with the call's id", async () => {
      // An id as LiveKit makes them: others are masked in the log where they could hold a number.
      const sent = question({ call_id: `SCL_logged_${runtime}`, from_number: "+15551230016" })
      await ask(service, sent)
      const wanted = [
        "Inbound call received",
        "Phone number found",
        "Using campaign agent",
        "Created new lead",
        "Call log created",
        "Dispatched",
      ]
      const lines = await eventually("the log", () => {
        const found = service.log.filter((line) => line["call_id"] === sent["call_id"])
        return found.length >= wanted.length ? found : undefined
      })
      expect(lines.map(({ message }) => message).sort()).toEqual(wanted.sort())
      expect(service.output()).not.toContain("5551230016")
    })
  })

  describe("of a question that is not understood is told the default agent, and leaves nothing:", () => {
    const wrong: Record<string, ReadonlyArray<unknown>> = {
      call_id: [undefined, null, 1, true, "", {}, ["x"]],
      from_number: [undefined, null, 15551230001, false, {}, []],
      to_number: [undefined, null, 18588796658, true, { number: "+1" }, ["+18588796658"]],
      trunk_id: [1, false, {}, []],
      trunk_phone_number: [18588796661, true, {}, []],
      room_name: [1, true, {}, []],
      timestamp: [true, {}, []],
    }
    const cases = Object.entries(wrong).flatMap(([field, values]) =>
      values.map((value) => [field, JSON.stringify(value) ?? "nothing", value] as const),
    )

    it.each(cases)("%s is %s", async (field, _, value) => {
      const before = await countWritten(database)
      const { metadata, ...rest } = await ask(service, question({ trunk_id: "ST_in", [field]: value }))
      expect(rest).toEqual({
        agent_name: "telephony-agent",
        attributes: {
          inbound: "true",
          phone_number: field === "to_number" ? "" : "+18588796658",
          caller: field === "from_number" ? "" : "+15551230001",
        },
        error: "Invalid payload",
      })
      expect(JSON.parse(metadata)).toEqual({
        call_type: "inbound",
        phone_number_id: null,
        tenant_id: null,
        campaign_id: null,
        from_number: rest.attributes["caller"],
        to_number: rest.attributes["phone_number"],
        trunk_id: field === "trunk_id" ? null : "ST_in",
      })
      expect(await countWritten(database)).toEqual(before)
    })

    it.each(["[]", '[{"call_id":"x","from_number":"","to_number":""}]', '"text"', "1", "true", "null", "{}"])(
      "the JSON %s",
      async (json) => {
        const before = await countWritten(database)
        const { metadata, ...rest } = await ask(service, json)
        expect(rest).toEqual({
          agent_name: "telephony-agent",
          attributes: { inbound: "true", phone_number: "", caller: "" },
          error: "Invalid payload",
        })
        expect(Object.keys(JSON.parse(metadata)).sort()).toEqual(metadataKeys)
        expect(await countWritten(database)).toEqual(before)
      },
    )

    it.each(["", "{", "{'call_id':1}", "call_id=1", "NaN", '{"call_id":"x",}', "\u0001"])(
      "but what is not JSON is refused: %j",
      async (text) => {
        const before = await countWritten(database)
        expectProblem(await sendSigned(service, text), 400, "Bad Request", "Invalid payload")
        expect(await countWritten(database)).toEqual(before)
      },
    )
  })

  describe("in its signature", () => {
    const body = () => toBytes(question())

    it.each<[string, (bytes: Uint8Array) => Record<string, string>]>([
      ["the secret's HMAC", (bytes) => ({ "x-livekit-signature": hmac(bytes, webhookSecret) })],
      [
        "the HMAC in upper case",
        (bytes) => ({ "x-livekit-signature": hmac(bytes, webhookSecret).toUpperCase() }),
      ],
      ["LiveKit's token", (bytes) => ({ authorization: makeToken(bytes) })],
      ["LiveKit's token behind Bearer", (bytes) => ({ authorization: `Bearer ${makeToken(bytes)}` })],
      [
        "LiveKit's token, beside an empty HMAC",
        (bytes) => ({ authorization: makeToken(bytes), "x-livekit-signature": "" }),
      ],
    ])("may use %s", async (_, headers) => {
      const bytes = body()
      expect(answerOf(await send(service, bytes, headers(bytes))).agent_name).toBe("campaign-agent")
    })

    it.each<[string, (bytes: Uint8Array) => Record<string, string>]>([
      ["another secret's HMAC", (bytes) => ({ "x-livekit-signature": hmac(bytes, "wrong") })],
      [
        "the API secret's HMAC, where there is another for it",
        (bytes) => ({ "x-livekit-signature": hmac(bytes) }),
      ],
      ["the HMAC of another body", () => ({ "x-livekit-signature": hmac(body(), webhookSecret) })],
      ["half an HMAC", (bytes) => ({ "x-livekit-signature": hmac(bytes, webhookSecret).slice(0, 32) })],
      ["an HMAC that is none", () => ({ "x-livekit-signature": "no hex at all" })],
      ["another secret's token", (bytes) => ({ authorization: makeToken(bytes, { secret: "wrong" }) })],
      ["the token of another body", () => ({ authorization: makeToken(body()) })],
      ["a token that is none", () => ({ authorization: "Bearer token" })],
      [
        "a wrong HMAC beside a good token",
        (bytes) => ({ authorization: makeToken(bytes), "x-livekit-signature": hmac(bytes, "wrong") }),
      ],
    ])("may not use %s", async (_, headers) => {
      const before = await countWritten(database)
      const bytes = body()
      const told = await send(service, bytes, headers(bytes))
      expectProblem(told, 401, "Unauthorized", "Invalid signature")
      expect(await countWritten(database)).toEqual(before)
    })

    it.each<[string, Record<string, string>]>([
      ["nothing", {}],
      ["an empty HMAC", { "x-livekit-signature": "" }],
      ["an empty token", { authorization: "Bearer " }],
    ])("may not use %s", async (_, headers) => {
      const before = await countWritten(database)
      expectProblem(await send(service, body(), headers), 401, "Unauthorized", "Missing auth")
      expect(await countWritten(database)).toEqual(before)
    })
  })

  describe("may send anything:", () => {
    const fields = [
      "call_id",
      "from_number",
      "to_number",
      "trunk_id",
      "trunk_phone_number",
      "room_name",
      "timestamp",
    ]
    const texts: Record<string, string> = {
      "a NUL": "\0",
      "a NUL between digits": "+1555\u0000123\u00004567",
      "half a surrogate pair": "\ud800",
      "the other half, at the end": "+15551230017\udfff",
      "300 kB of digits": "1".repeat(300_000),
      "300 kB of a number": `+1${"5 ".repeat(150_000)}`,
      "300 kB that cannot be compressed": incompressible,
      "300 kB of brackets": "(".repeat(300_000),
      "300 kB of escapes": "%2b".repeat(100_000),
      "the key of a prototype": "__proto__",
      "another key of a prototype": "constructor",
      "a hidden caller": "anonymous",
      emoji: "☎️📞👩‍👩‍👧",
      "marks of the direction": "\u202a+15551230018\u202c",
      SQL: "'; DROP TABLE calls; --",
      spaces: "   \t\r\n ",
    }
    const cases = fields.flatMap((field) =>
      Object.entries(texts).map(([name, text]) => [field, name, text] as const),
    )

    it.each(cases)("as %s %s", async (field, _, text) => {
      const sent = question({ [field]: text })
      const answer = await ask(service, sent)
      expect(Object.keys(JSON.parse(answer.metadata)).sort()).toEqual(metadataKeys)
      expect(answer.attributes["inbound"]).toBe("true")
      // The text reads the same in the answer and in the row, whatever PostgreSQL cannot hold.
      const rows = await database.query<CallRow>("SELECT * FROM calls ORDER BY created_at DESC LIMIT 1")
      expect(rows[0]).toMatchObject({ metadata: answer.metadata, agent_name: answer.agent_name })
    })

    it.each([
      ["a prototype", '{"__proto__":{"call_id":"x","from_number":"","to_number":""}}', "Invalid payload"],
      [
        "a prototype beside the fields",
        `{"__proto__":{"error":"x"},"constructor":{"prototype":{"agent_name":"x"}},${JSON.stringify(question()).slice(1)}`,
        undefined,
      ],
      ["a field twice", `{"call_id":7,${JSON.stringify(question()).slice(1)}`, undefined],
      ["a byte order mark", `\ufeff${JSON.stringify(question())}`, undefined],
    ])("with %s", async (_, json, error) => {
      expect((await ask(service, json)).error).toBe(error)
    })

    it("with bytes that are no UTF-8", async () => {
      const json = JSON.stringify(question({ from_number: "caf\u00e9" }))
      expect((await ask(service, Buffer.from(json, "latin1"))).agent_name).toBe("campaign-agent")
    })

    it("nested deeply", async () => {
      const nested = `${"[".repeat(100_000)}${"]".repeat(100_000)}`
      const json = `{"more":${nested},${JSON.stringify(question()).slice(1)}`
      const told = await sendSigned(service, json)
      expect(told.status).toBeLessThan(500)
    })

    it("but no more than 1 MiB", async () => {
      const told = await sendSigned(service, question({ padding: "x".repeat(1024 * 1024) }))
      expectProblem(told, 413, "Content Too Large", "Payload too large")
    })

    it("and none of it was an error of ours", async () => {
      expect((await ask(service, question())).agent_name).toBe("campaign-agent")
      // A database that is slow for a moment is nobody's fault here.
      const expected = "Database not usable, trying again"
      const errors = service.log.filter(({ level }) => level === "error" || level === "fatal")
      expect(errors.filter(({ message }) => message !== expected)).toEqual([])
    })
  })

  it.each([["GET"], ["PUT"], ["PATCH"], ["DELETE"], ["HEAD"], ["OPTIONS"]])(
    "gets 405 for %s",
    async (method) => {
      const response = await fetch(`${service.url}/api/v1/webhooks/livekit/sip-inbound`, { method })
      await response.arrayBuffer()
      expect([response.status, response.headers.get("allow")]).toEqual([405, "POST"])
    },
  )

  // Last, because it changes what the tests above count on.
  describe("hears within 5 s of", () => {
    const expectAgent = (agent: string) =>
      eventually(
        agent,
        async () => (await ask(service, question({ to_number: "+18588796665" }))).agent_name === agent,
        5_000,
      )

    it("another agent of the campaign, another campaign, and its end", async () => {
      await expectAgent("campaign-agent")
      const before = question({ from_number: "+15551230019" })
      const first = await ask(service, before)
      const { campaigns, dids, tenants } = seeded
      await database.query("UPDATE campaigns SET agent_name = 'new-agent' WHERE id = $1", [campaigns.spring])
      await expectAgent("new-agent")
      // Whoever asks again about a call is told what was said of it, not what would be said now.
      expect(await ask(service, before)).toEqual(first)
      await database.query("UPDATE dids SET campaign_id = $1 WHERE id = $2", [
        campaigns.quiet,
        dids.campaigns,
      ])
      await expectAgent("tenant-agent")
      await database.query("UPDATE tenants SET default_agent = 'new-tenant-agent' WHERE id = $1", [
        tenants.rich,
      ])
      await expectAgent("new-tenant-agent")
      await database.query("UPDATE campaigns SET agent_name = 'late-agent' WHERE id = $1", [campaigns.quiet])
      await expectAgent("late-agent")
      await database.query("UPDATE campaigns SET active = false WHERE id = $1", [campaigns.quiet])
      await expectAgent("new-tenant-agent")
    })

    it("a number that was unknown, and of its end", async () => {
      const sent = { to_number: "+18588796699" }
      const error = "Phone number not found in database"
      expect((await ask(service, question(sent))).error).toBe(error)
      await database.query(
        "INSERT INTO dids (number, raw_number, campaign_id) VALUES ('+18588796699', '8588796699', $1)",
        [seeded.campaigns.spring],
      )
      await eventually(
        "the number",
        async () => (await ask(service, question(sent))).error === undefined,
        5_000,
      )
      await database.query("DELETE FROM dids WHERE number = '+18588796699'")
      await eventually("no number", async () => (await ask(service, question(sent))).error === error, 5_000)
    })
  })
})

describe.each(runtimes)("with SIP_INBOUND_UNSIGNED and no secret of its own, on %s,", (runtime) => {
  let database: PostgresDatabase
  let service: Service

  beforeAll(async () => {
    database = await makePostgresDatabase()
    await seed(database)
    service = await startService(
      {
        ...database.env,
        ...patient,
        SIP_INBOUND_UNSIGNED: "true",
        DEFAULT_AGENT: "house-agent",
        LIVEKIT_KEYS: "newkey:new-secret-of-the-rotation",
      },
      runtime,
    )
  })
  afterAll(async () => {
    await service?.stop()
    await database?.drop()
  })

  it.each<[string, (bytes: Uint8Array) => Record<string, string>]>([
    ["unsigned", () => ({})],
    ["with an empty signature", () => ({ "x-livekit-signature": "" })],
    ["signed with the API secret", (bytes) => ({ "x-livekit-signature": hmac(bytes) })],
    [
      "signed with the second API secret",
      (bytes) => ({ "x-livekit-signature": hmac(bytes, "new-secret-of-the-rotation") }),
    ],
    ["signed as LiveKit does", (bytes) => ({ authorization: makeToken(bytes) })],
  ])("a question %s is answered, and written down", async (_, headers) => {
    const sent = question()
    const bytes = toBytes(sent)
    expect(answerOf(await send(service, bytes, headers(bytes))).agent_name).toBe("campaign-agent")
    expect(await rowsOf(database, sent["call_id"])).toHaveLength(1)
  })

  it.each<[string, (bytes: Uint8Array) => Record<string, string>]>([
    ["a wrong HMAC", (bytes) => ({ "x-livekit-signature": hmac(bytes, "wrong") })],
    ["the HMAC of another body", () => ({ "x-livekit-signature": hmac(toBytes(question())) })],
    ["a wrong token", (bytes) => ({ authorization: makeToken(bytes, { secret: "wrong" }) })],
    ["what is no token", () => ({ authorization: "Basic YTpi" })],
  ])("a question with %s is refused all the same", async (_, headers) => {
    const before = await countWritten(database)
    const bytes = toBytes(question())
    const told = await send(service, bytes, headers(bytes))
    expectProblem(told, 401, "Unauthorized", "Invalid signature")
    expect(await countWritten(database)).toEqual(before)
  })

  it("the default agent is the one of the settings", async () => {
    const unknown = answerOf(await send(service, toBytes(question({ to_number: "+18588790000" })), {}))
    const nobodys = answerOf(await send(service, toBytes(question({ to_number: "+18588796664" })), {}))
    const invalid = answerOf(await send(service, toBytes({}), {}))
    expect([unknown, nobodys, invalid].map(({ agent_name, error }) => [agent_name, error])).toEqual([
      ["house-agent", "Phone number not found in database"],
      ["house-agent", undefined],
      ["house-agent", "Invalid payload"],
    ])
  })

  it("what is not JSON is refused", async () => {
    expectProblem(await send(service, toBytes("{"), {}), 400, "Bad Request", "Invalid payload")
  })
})

/** A line to the database that can be held: connections stay, and new ones are made, but nothing gets through. */
const startLine = async (target: { readonly host: string; readonly port: number }) => {
  const sockets = new Set<Socket>()
  const late: Array<() => void> = []
  let held = false
  let told = ""
  const server = createServer((near) => {
    const far = connect(target.port, target.host)
    far.on("data", (chunk) => {
      told += chunk.toString("latin1")
    })
    for (const [socket, peer] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket)
      const write = (chunk: Buffer) => {
        if (!peer.destroyed) peer.write(chunk)
      }
      socket.on("data", (chunk) => (held ? late.push(() => write(chunk)) : write(chunk)))
      socket.on("error", () => peer.destroy())
      socket.on("close", () => {
        sockets.delete(socket)
        peer.destroy()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return {
    port: (server.address() as AddressInfo).port,
    /** Everything the database has said, as far as it is text. */
    told: () => told,
    hold: () => {
      held = true
    },
    release: () => {
      held = false
      for (const write of late.splice(0)) write()
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
}

describe("a database that is away", () => {
  const cleanUps: Array<() => unknown> = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })

  // The caller hears ringing meanwhile: 1 s for the number, 1 s for the row, and what a busy machine adds.
  const soon = 8_000

  const behindLine = async (open = true) => {
    const database = await makePostgresDatabase()
    cleanUps.push(() => database.drop())
    const seeded = await seed(database)
    const real = new URL(database.url)
    const line = await startLine({ host: real.hostname, port: Number(real.port) })
    cleanUps.push(() => line.close())
    const forwarder = await startForwarder({ host: "127.0.0.1", port: line.port }, open)
    cleanUps.push(() => forwarder.cut().catch(() => {}))
    real.port = String(forwarder.port)
    const service = await startService({ DATABASE_URL: real.href, ...patient })
    cleanUps.push(() => service.stop("SIGKILL"))
    return { database, seeded, line, forwarder, service }
  }

  /** Nobody has called any number yet: what the service knows of them it has read by itself. */
  const afterReading = async ({ line, service }: Awaited<ReturnType<typeof behindLine>>) => {
    await eventually("the numbers read", () => line.told().includes("+18588796665"))
    await ask(service, question({ to_number: "+18588790000" }))
  }

  /** A number that the database has, but which the service has never heard of. */
  const addNumber = (database: PostgresDatabase, { campaigns }: Seeded) =>
    database.query(
      "INSERT INTO dids (number, raw_number, campaign_id) VALUES ('+18588796700', '8588796700', $1)",
      [campaigns.spring],
    )

  const askKnown = async (service: Service, { campaigns, dids, tenants }: Seeded) => {
    const sent = question({ from_number: "+15551230020", room_name: "call-known" })
    const told = await sendSigned(service, sent)
    const { metadata, ...rest } = answerOf(told)
    expect(rest).toEqual({
      agent_name: "campaign-agent",
      attributes: { inbound: "true", phone_number: "+18588796658", caller: "+15551230020" },
    })
    expect(JSON.parse(metadata)).toMatchObject({
      phone_number_id: dids.spring,
      tenant_id: tenants.rich,
      campaign_id: campaigns.spring,
    })
    expect(told.tookMs).toBeLessThan(soon)
    return { sent, metadata }
  }

  const askUnheardOf = async (service: Service, from_number = "+15551230021", to_number = "+18588796700") => {
    const sent = question({ from_number, to_number })
    const told = await sendSigned(service, sent)
    const { metadata, ...rest } = answerOf(told)
    expect(rest).toEqual({
      agent_name: "telephony-agent",
      attributes: { inbound: "true", phone_number: to_number, caller: from_number },
      error: "Database error",
    })
    expect(JSON.parse(metadata)).toMatchObject({ phone_number_id: null, tenant_id: null, campaign_id: null })
    expect(told.tookMs).toBeLessThan(soon)
    return { sent, metadata }
  }

  /** The row and the lead, once each, with what was answered, of a call to the campaign that the number has. */
  const expectCaughtUp = async (
    { database, seeded }: { readonly database: PostgresDatabase; readonly seeded: Seeded },
    { sent, metadata }: { readonly sent: Question; readonly metadata: string },
  ) => {
    await eventually("the row", async () => (await rowsOf(database, sent["call_id"])).length > 0)
    const caller = String(sent["from_number"])
    const lead = await eventually("the lead", async () => (await leadsOf(database, caller))[0], 5_000)
    expect(lead).toMatchObject({ campaign_id: seeded.campaigns.spring, name: `Inbound Caller ${caller}` })
    const rows = await rowsOf(database, sent["call_id"])
    expect(rows).toHaveLength(1)
    expect(rows[0]).toMatchObject({
      status: "ringing",
      state: "accepted",
      metadata,
      lead_id: lead["id"],
      campaign_id: seeded.campaigns.spring,
    })
    expect(await leadsOf(database, caller)).toHaveLength(1)
  }

  it("and refuses: numbers in memory are answered as ever, rows and leads come later, once", async () => {
    const away = await behindLine()
    const { forwarder, seeded, service } = away
    await afterReading(away)
    await forwarder.cut()
    const first = await askKnown(service, seeded)
    // Asked again while nobody can look it up: the same answer, and still one call.
    const again = await ask(service, first.sent)
    expect([again.agent_name, again.metadata]).toEqual(["campaign-agent", first.metadata])
    await forwarder.restore()
    await expectCaughtUp(away, first)
  })

  it("and is back: the call's join does not overtake the claim that is still to be written", async () => {
    const away = await behindLine()
    const { database, forwarder, service } = away
    const worker = await startWorker()
    cleanUps.push(() => worker.stop())
    await database.query(
      "INSERT INTO system_settings (key, value) VALUES ('core_fleet', to_jsonb($1::text))",
      [worker.url],
    )
    await eventually("ready", async () => (await service.get("/readyz")).status === 200)
    await afterReading(away)
    for (let round = 0; round < 3; round++) {
      await forwarder.cut()
      const join = joinEvent()
      await ask(service, question({ call_id: join.participant.attributes["sip.callID"] }))
      await forwarder.restore()
      const told = await eventually("the join taken", async () => {
        const answered = await service.ring(join)
        return answered.status === 200 ? answered : undefined
      })
      expect([told.replayed, JSON.parse(told.body)]).toEqual([
        true,
        { ok: true, agent_name: "campaign-agent" },
      ])
    }
    expect(worker.seen).toEqual([])
  })

  it("and hangs: numbers in memory are answered as ever, rows and leads come later, once", async () => {
    const away = await behindLine()
    const { line, seeded, service } = away
    await afterReading(away)
    line.hold()
    const first = await askKnown(service, seeded)
    const again = await ask(service, first.sent)
    expect([again.agent_name, again.metadata]).toEqual(["campaign-agent", first.metadata])
    line.release()
    await expectCaughtUp(away, first)
  })

  it("and refuses: a number in no memory gets the default agent, its row and lead later, once", async () => {
    const away = await behindLine()
    const { database, forwarder, seeded, service } = away
    await afterReading(away)
    await forwarder.cut()
    await addNumber(database, seeded)
    const first = await askUnheardOf(service)
    await forwarder.restore()
    await expectCaughtUp(away, first)
  })

  it("and hangs: a number in no memory gets the default agent, its row and lead later, once", async () => {
    const away = await behindLine()
    const { database, line, seeded, service } = away
    await afterReading(away)
    line.hold()
    await addNumber(database, seeded)
    const first = await askUnheardOf(service)
    line.release()
    await expectCaughtUp(away, first)
  })

  it("from the start: every number gets the default agent, its row and lead later, once", async () => {
    const away = await behindLine(false)
    const { forwarder, service } = away
    const first = await askUnheardOf(service, "+15551230022", "+18588796658")
    expect((await ask(service, { call_id: "x" })).error).toBe("Invalid payload")
    await forwarder.restore()
    await expectCaughtUp(away, first)
    await eventually(
      "the number in force",
      async () => (await ask(service, question())).agent_name === "campaign-agent",
    )
  })

  it("keeps what many ask meanwhile, in order and once each", async () => {
    const away = await behindLine()
    const { database, forwarder, service } = away
    await afterReading(away)
    await forwarder.cut()
    const sent = Array.from({ length: 30 }, (_, index) =>
      question({ from_number: `+155512301${10 + index}`, room_name: `call-kept-${index}` }),
    )
    await Promise.all([...sent, ...sent].map((one) => ask(service, one)))
    await forwarder.restore()
    await eventually("all rows", async () => {
      const rows = await database.query("SELECT id FROM calls WHERE room_name LIKE 'call-kept-%'")
      return rows.length >= sent.length
    })
    const written = await database.query<{ calls: string; leads: string }>(
      `SELECT count(*) AS calls, count(DISTINCT lead_id) AS leads FROM calls WHERE room_name LIKE 'call-kept-%'`,
    )
    expect(written).toEqual([{ calls: "30", leads: "30" }])
  })
})
