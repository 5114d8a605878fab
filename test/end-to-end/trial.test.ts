// For whoever sets the service up: whether the webhooks are there, and whom a number would reach, as a trial.

import { Effect } from "effect"
import * as fc from "fast-check"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { migrate } from "../../src/database/migrations.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { type Runtime, runtimes, signal, start } from "../support/processes.ts"
import { cases } from "../support/properties.ts"
import { startService, toBytes } from "../support/service.ts"
import { rowsIn } from "../support/tap.ts"
import { makeToken } from "../support/tokens.ts"
import { eventually } from "../support/waiting.ts"

const testPath = "/api/v1/webhooks/test"
const healthPath = "/api/v1/webhooks/health"
const askPath = "/api/v1/webhooks/livekit/sip-inbound"
const adminToken = "the-token-of-the-operator"
const admin = { authorization: `Bearer ${adminToken}` }

interface Told {
  readonly status: number
  readonly type: string | null
  readonly text: string
}

interface Answer {
  readonly agent_name: string
  readonly metadata: string
  readonly attributes: Record<string, string>
  readonly error?: string
}

const send = async (
  url: string,
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Told> => {
  const response = await fetch(url + path, { method: "POST", headers, body: toBytes(body) })
  const text = await response.text()
  return { status: response.status, type: response.headers.get("content-type"), text }
}

const expectProblem = ({ status, text, type }: Told, expected: number, title: string, detail: string) => {
  expect([status, type]).toEqual([expected, "application/problem+json"])
  expect(JSON.parse(text)).toEqual({ type: "about:blank", title, status: expected, detail })
}

const trialOf = ({ status, text, type }: Told): Answer => {
  expect([status, type]).toEqual([200, "application/json"])
  const { response, ...rest } = JSON.parse(text)
  expect(rest).toEqual({ success: true, message: "Test webhook processed" })
  return response
}

const makeDatabase = async () => {
  const database = await makePostgresDatabase()
  const engine = makePostgres(database.url)
  await Effect.runPromise(migrate(engine))
  await engine.close()
  return database
}

/** One number with a campaign that has an agent. */
const seed = async (database: PostgresDatabase) => {
  const rows = await database.query<{ did: string; tenant: string; campaign: string }>(
    `WITH t AS (INSERT INTO tenants (name) VALUES ('one') RETURNING id),
       c AS (INSERT INTO campaigns (tenant_id, name, agent_name) SELECT id, 'spring', 'campaign-agent' FROM t RETURNING id, tenant_id),
       d AS (INSERT INTO dids (number, raw_number, tenant_id, campaign_id)
         SELECT '+18588796658', '8588796658', tenant_id, id FROM c RETURNING id)
     SELECT d.id AS did, t.id AS tenant, c.id AS campaign FROM d, t, c`,
  )
  return rows[0] ?? { did: "", tenant: "", campaign: "" }
}

/** Starts the service as a developer does, whose log is written for a terminal. */
const startInDevelopment = async (runtime: Runtime, env: Record<string, string>) => {
  const { child, exited, output } = start(runtime, "main.ts", {
    env: { PORT: "0", HOST: "127.0.0.1", ...env },
  })
  const stop = () => {
    signal(child, "SIGTERM")
    return exited
  }
  const port = await eventually("listening", () => /Listening .*\bport=(\d+)/.exec(output())?.[1])
  return { url: `http://127.0.0.1:${port}`, output, stop }
}

interface Running {
  readonly url: string
  readonly stop: () => Promise<unknown>
}

describe.each(runtimes)("on %s", (runtime) => {
  let database: PostgresDatabase
  let seeded: Awaited<ReturnType<typeof seed>>
  let development: Running
  let production: Running
  let tokenless: Running

  beforeAll(async () => {
    database = await makeDatabase()
    seeded = await seed(database)
    const env = { ...database.env, RATE_LIMIT_PER_MINUTE: "1000000" }
    ;[development, production, tokenless] = await Promise.all([
      startInDevelopment(runtime, env),
      startService({ ...env, ADMIN_TOKEN: adminToken }, runtime),
      startService(env, runtime),
    ])
  })
  afterAll(async () => {
    await Promise.all([development?.stop(), production?.stop(), tokenless?.stop()])
    await database?.drop()
  })

  const good = { to_number: "(858) 879-6658", from_number: "555 123 0001" }
  const expected = () => ({
    agent_name: "campaign-agent",
    metadata: {
      call_type: "inbound",
      phone_number_id: seeded.did,
      tenant_id: seeded.tenant,
      campaign_id: seeded.campaign,
      from_number: "+15551230001",
      to_number: "+18588796658",
      trunk_id: null,
    },
    attributes: { inbound: "true", phone_number: "+18588796658", caller: "+15551230001" },
  })
  const expectTried = (told: Told) => {
    const { metadata, ...rest } = trialOf(told)
    expect(typeof metadata).toBe("string")
    expect({ ...rest, metadata: JSON.parse(metadata) }).toEqual(expected())
  }

  it("the health of the webhooks is told to anybody, in development and in production", async () => {
    for (const { url } of [development, production, tokenless]) {
      const response = await fetch(url + healthPath)
      expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json"])
      expect(await response.json()).toEqual({
        success: true,
        message: "Webhook endpoints are operational",
        endpoints: {
          sip_inbound: "/api/v1/webhooks/livekit/sip-inbound",
          events: "/api/v1/webhooks/livekit/events",
        },
      })
    }
  })

  it("the URLs that it names are there", async () => {
    const { endpoints } = (await (await fetch(production.url + healthPath)).json()) as {
      readonly endpoints: Record<string, string>
    }
    for (const path of Object.values(endpoints)) {
      expectProblem(await send(production.url, path, "{}"), 401, "Unauthorized", "Missing auth")
    }
  })

  describe("a trial", () => {
    it("needs no token in development, and is not minded one", async () => {
      expectTried(await send(development.url, testPath, good))
      expectTried(await send(development.url, testPath, good, { authorization: "Bearer whatever" }))
    })

    it("needs the admin token in production", async () => {
      expectTried(await send(production.url, testPath, good, admin))
      expectTried(await send(production.url, testPath, good, { authorization: `bearer  ${adminToken} ` }))
      const before = await rowsIn(database)
      const sent = { ...good, persist: true }
      for (const headers of [{}, { authorization: "" }]) {
        expectProblem(
          await send(production.url, testPath, sent, headers),
          401,
          "Unauthorized",
          "Missing auth",
        )
      }
      for (const authorization of [
        "Bearer wrong-token-of-nobody",
        `Bearer ${adminToken}x`,
        `Bearer ${adminToken.slice(0, -1)}`,
        `Basic ${adminToken}`,
        adminToken,
        "Bearer",
        makeToken(toBytes(sent)),
      ]) {
        const told = await send(production.url, testPath, sent, { authorization })
        expectProblem(told, 401, "Unauthorized", "Invalid admin token")
        expect(told.text).not.toContain(adminToken)
      }
      expect(await rowsIn(database)).toEqual(before)
    })

    it("is not there in production without an admin token", async () => {
      for (const headers of [{}, admin, { authorization: "Bearer undefined" }]) {
        const told = await send(tokenless.url, testPath, good, headers)
        expectProblem(told, 404, "Not Found", "There is nothing here")
      }
    })

    it("writes nothing", async () => {
      const before = await rowsIn(database)
      for (const more of [{}, { persist: false }]) {
        for (const to_number of ["+18588796658", "+18588790000", ""]) {
          trialOf(await send(production.url, testPath, { ...good, to_number, ...more }, admin))
        }
      }
      expect(await rowsIn(database)).toEqual(before)
    })

    it("says what whoever asks is told of a number that nobody knows", async () => {
      const sent = { to_number: "8588790000", from_number: "anonymous" }
      const { metadata, ...rest } = trialOf(await send(production.url, testPath, sent, admin))
      expect(rest).toEqual({
        agent_name: "telephony-agent",
        attributes: { inbound: "true", phone_number: "+18588790000", caller: "anonymous" },
        error: "Phone number not found in database",
      })
      expect(JSON.parse(metadata)).toMatchObject({ phone_number_id: null, to_number: "+18588790000" })
    })

    it("that is to persist writes the lead and a row of the call log", async () => {
      const caller = "+15551230051"
      const before = await rowsIn(database)
      const startedAt = Date.now()
      const sent = { to_number: "+18588796658", from_number: caller, persist: true }
      const { agent_name } = trialOf(await send(production.url, testPath, sent, admin))
      const endedAt = Date.now()
      expect(agent_name).toBe("campaign-agent")
      const rows = await database.query<Record<string, unknown>>("SELECT * FROM calls WHERE caller = $1", [
        caller,
      ])
      expect(rows).toHaveLength(1)
      const callId = String(rows[0]?.["sip_call_id"])
      expect(callId).toMatch(/^test-\d{13}$/)
      const made = Number(callId.slice("test-".length))
      expect(made).toBeGreaterThanOrEqual(startedAt)
      expect(made).toBeLessThanOrEqual(endedAt)
      const leads = await database.query<Record<string, unknown>>("SELECT * FROM leads WHERE number = $1", [
        caller,
      ])
      expect(leads).toHaveLength(1)
      expect(leads[0]).toMatchObject({
        campaign_id: seeded.campaign,
        tenant_id: seeded.tenant,
        name: `Inbound Caller ${caller}`,
        status: "calling",
      })
      expect(rows[0]).toMatchObject({
        room_name: `test-room-${made}`,
        status: "ringing",
        direction: "inbound",
        state: "none",
        caller_e164: caller,
        dialed: "+18588796658",
        dialed_e164: "+18588796658",
        tenant_id: seeded.tenant,
        campaign_id: seeded.campaign,
        did_id: seeded.did,
        lead_id: leads[0]?.["id"],
      })
      const { calls, leads: leadsAfter } = await rowsIn(database)
      expect([Number(calls), Number(leadsAfter)]).toEqual([
        Number(before["calls"]) + 1,
        Number(before["leads"]) + 1,
      ])
      expect(await database.query("SELECT 1 FROM dispatch_attempts")).toEqual([])
    })

    it.each([
      ["nothing", ""],
      ["no JSON", "{"],
      ["a list", "[]"],
      ["a text", '"x"'],
      ["null", "null"],
      ["no numbers", "{}"],
      ["no to_number", '{"from_number":"+15551230001"}'],
      ["no from_number", '{"to_number":"+18588796658"}'],
      ["a number that is a number", '{"to_number":18588796658,"from_number":"+15551230001"}'],
      ["a number that is null", '{"to_number":"+18588796658","from_number":null}'],
      ["a persist that is none", '{"to_number":"1","from_number":"2","persist":"true"}'],
    ])("of %s is 400, and writes nothing", async (_, body) => {
      const before = await rowsIn(database)
      for (const [url, headers] of [
        [production.url, admin],
        [development.url, {}],
      ] as const) {
        expectProblem(await send(url, testPath, body, headers), 400, "Bad Request", "Invalid payload")
      }
      expect(await rowsIn(database)).toEqual(before)
    })

    it("of more than 1 MiB is 413", async () => {
      const sent = { ...good, more: "x".repeat(1024 * 1024) }
      const told = await send(production.url, testPath, sent, admin)
      expectProblem(told, 413, "Content Too Large", "Payload too large")
    })

    it("of any text is an answer, and may be persisted", async () => {
      for (const text of ["\0", "\ud800", "1".repeat(300_000), "__proto__", "anonymous", "", "☎️"]) {
        for (const persist of [true, false]) {
          for (const sent of [
            { to_number: text, from_number: "+15551230053", persist },
            { to_number: "+18588796658", from_number: text, persist },
          ]) {
            const { attributes } = trialOf(await send(production.url, testPath, sent, admin))
            expect(attributes["inbound"]).toBe("true")
          }
        }
      }
    })

    it("is only to be posted", async () => {
      for (const method of ["GET", "PUT", "PATCH", "DELETE"]) {
        const response = await fetch(production.url + testPath, { method, headers: admin })
        await response.arrayBuffer()
        expect([response.status, response.headers.get("allow")]).toEqual([405, "POST"])
      }
    })
  })
})

describe("a trial and whoever asks", () => {
  let database: PostgresDatabase
  let service: Running
  let known: ReadonlyArray<string>

  const agents = ["campaign-agent", null, "", "  "]

  /** Numbers of every kind: with and without a tenant, with and without a campaign, active or not, with any agent. */
  const configure = async () => {
    const insert = async (sql: string, values: ReadonlyArray<unknown>) =>
      (await database.query<{ id: string }>(`${sql} RETURNING id`, values))[0]?.id ?? null
    const numbers: Array<string> = []
    const did = async (tenant: string | null, campaign: string | null) => {
      const number = `+1858879${7000 + numbers.length}`
      await insert("INSERT INTO dids (number, raw_number, tenant_id, campaign_id) VALUES ($1, $1, $2, $3)", [
        number,
        tenant,
        campaign,
      ])
      numbers.push(number)
    }
    await did(null, null)
    for (const [index, agent] of ["tenant-agent", null, ""].entries()) {
      const tenant = await insert("INSERT INTO tenants (name, default_agent) VALUES ($1, $2)", [
        `tenant ${index}`,
        agent,
      ])
      await did(tenant, null)
      for (const active of [true, false]) {
        for (const campaignAgent of agents) {
          const campaign = await insert(
            "INSERT INTO campaigns (tenant_id, name, agent_name, active) VALUES ($1, $2, $3, $4)",
            [tenant, `campaign ${campaignAgent} ${active}`, campaignAgent, active],
          )
          await did(tenant, campaign)
          await did(null, campaign)
        }
      }
    }
    return numbers
  }

  beforeAll(async () => {
    database = await makeDatabase()
    known = await configure()
    service = await startService({ ...database.env, ADMIN_TOKEN: adminToken, DEFAULT_AGENT: "house-agent" })
  })
  afterAll(async () => {
    await service?.stop()
    await database?.drop()
  })

  const spelled = (number: string) => {
    const national = number.slice(2)
    const [area, office, line] = [national.slice(0, 3), national.slice(3, 6), national.slice(6)]
    return fc.constantFrom(
      number,
      number.slice(1),
      national,
      `00${number.slice(1)}`,
      `(${area}) ${office}-${line}`,
      `sip:${number}@203.0.113.7`,
      `tel:${number}`,
      ` ${area}.${office}.${line} `,
    )
  }
  const anyNumber = fc.oneof(
    fc.integer({ min: 0, max: 9999 }).chain((line) => spelled(`+1858879${String(line).padStart(4, "0")}`)),
    fc.constantFrom("", "anonymous", "911", "+442079460000", "\0", "__proto__"),
    fc.string({ maxLength: 30, unit: "binary" }),
  )
  const dialed = fc.oneof(
    { weight: 3, arbitrary: fc.nat().chain((index) => spelled(known[index % known.length] ?? "")) },
    { weight: 1, arbitrary: anyNumber },
  )

  it("are told the same of every number, and the trial leaves nothing", async () => {
    let asked = 0
    const agree = fc.asyncProperty(dialed, anyNumber, async (to_number, from_number) => {
      const before = await rowsIn(database)
      const trial = trialOf(await send(service.url, testPath, { to_number, from_number }, admin))
      expect(await rowsIn(database)).toEqual(before)
      const question = toBytes({ call_id: `asked-${asked++}`, to_number, from_number })
      const told = await send(service.url, askPath, question, { authorization: makeToken(question) })
      expect(told.status).toBe(200)
      expect(JSON.parse(told.text)).toEqual(trial)
      expect(JSON.parse(trial.metadata).trunk_id).toBeNull()
    })
    await fc.assert(agree, { ...cases, numRuns: 100 })
  })

  it("are told the same again after the numbers have changed", async () => {
    const number = known.at(-1) ?? ""
    const sent = { to_number: number, from_number: "+15551230001" }
    await database.query("UPDATE campaigns SET agent_name = 'new-agent', active = true")
    const trial = await eventually(
      "the new agent",
      async () => {
        const got = trialOf(await send(service.url, testPath, sent, admin))
        return got.agent_name === "new-agent" ? got : undefined
      },
      5_000,
    )
    const question = toBytes({ call_id: "asked-at-last", ...sent })
    const told = await send(service.url, askPath, question, { authorization: makeToken(question) })
    expect(JSON.parse(told.text)).toEqual(trial)
  })
})
