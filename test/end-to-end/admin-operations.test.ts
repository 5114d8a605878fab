// Every operation of openapi.json on the started service: with good input, with all that the file itself refuses, and
// until it has answered in every status that the file declares for it.

import { readFile } from "node:fs/promises"
import pg from "pg"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { expectBad, expectProblem, good, made, missing } from "../support/admin-answers.ts"
import {
  type AdminClient,
  adminOf,
  adminToken,
  bodySchemaOf,
  misfit,
  type Operation,
  operationNamed,
  operations,
  type Parameters,
  type Told,
} from "../support/admin-client.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { joinEvent } from "../support/events.ts"
import { startForwarder } from "../support/forwarder.ts"
import { root } from "../support/processes.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

type Body = Readonly<Record<string, unknown>>

/** What an operation is given. */
interface Given {
  readonly parameters?: Parameters
  readonly body?: Body
}

interface Case extends Given {
  /** With these there is nothing. */
  readonly unknown?: Parameters
  /** What fits the file and is refused all the same, and the path that is named. */
  readonly bad?: ReadonlyArray<Given & { readonly path: string }>
  /** What something else has, or refers to, and the field that is named. */
  readonly conflicts?: ReadonlyArray<Given & { readonly field: string }>
}

/** As it should be; without its database; without an admin token. */
let open: Service
let away: Service
let closed: Service
let admin: AdminClient
let database: PostgresDatabase
/** What a call has left behind. */
let call: Told["body"]
const toStop: Array<() => Promise<unknown>> = []

beforeAll(async () => {
  database = await makePostgresDatabase()
  const worker = await startWorker("first")
  const real = new URL(database.url)
  const forwarder = await startForwarder({ host: real.hostname, port: Number(real.port) })
  real.port = String(forwarder.port)
  const fleet = [
    { url: worker.url, name: "first" },
    { url: "http://127.0.0.1:1", name: "kept out", draining: true },
  ]
  const env = { ...database.env, ADMIN_TOKEN: adminToken, CORE_FLEET: JSON.stringify(fleet) }
  ;[open, away, closed] = await Promise.all([
    startService(env),
    startService({ ...env, DATABASE_URL: real.href }),
    startService(database.env),
  ])
  for (const { stop } of [open, away, closed, worker]) toStop.push(stop)
  toStop.push(forwarder.cut, database.drop)
  admin = adminOf(open.url)
  const { id } = await make("tenants.create", { name: "Called" })
  const campaign = await make("campaigns.create", { tenant_id: id, name: "Answering" })
  await make("dids.create", { number: "+15557654321", campaign_id: campaign.id })
  call = await eventually("a call with its lead", async () => {
    const join = joinEvent()
    await open.ring(join)
    const told = await admin("calls.get", { id: join.participant.attributes["sip.callID"] ?? "" })
    return told.status === 200 && told.body.lead !== null && told.body
  })
  await eventually(
    "everything reached",
    async () => (await adminOf(away.url)("workers.list")).body.items?.[0]?.state === "up",
  )
  await forwarder.cut()
})
afterAll(async () => {
  for (const stop of toStop) await stop()
})

const make = async (operationId: string, body: Body) => made(await admin(operationId, {}, body))

let count = 0
const name = () => `Number ${count++} Ltd`
const number = () => `+1858700${1000 + count++}`

const carrier = () =>
  make("carriers.create", { name: name(), lk_inbound_trunk_id: `ST_${count}`, dids: [number()] })
const tenant = () => make("tenants.create", { name: name() })
const campaign = async () => make("campaigns.create", { tenant_id: (await tenant()).id, name: name() })
const did = async () => make("dids.create", { number: number(), campaign_id: (await campaign()).id })

/** For each operation what it is given: everything that it can be given. */
const cases: Readonly<Record<string, () => Promise<Case> | Case>> = {
  "settings.list": () => ({}),
  "settings.get": () => ({ parameters: { key: "core_fleet" }, unknown: { key: "no_such" } }),
  "settings.put": () => ({
    parameters: { key: "drained_workers" },
    body: { value: ["nobody"] },
    unknown: { key: "no_such" },
    bad: [{ body: { value: [7] }, path: "value" }],
  }),

  "workers.list": () => ({}),
  "workers.drain": () => ({ parameters: { name: "first" }, unknown: { name: "second" } }),
  "workers.undrain": () => ({
    parameters: { name: "first" },
    unknown: { name: "second" },
    conflicts: [{ parameters: { name: "kept out" }, field: "core_fleet" }],
  }),

  "carriers.list": async () => {
    await carrier()
    return { parameters: { limit: 1 } }
  },
  "carriers.get": async () => ({ parameters: { id: (await carrier()).id } }),
  "carriers.create": async () => {
    const other = await carrier()
    const body = { name: name(), lk_inbound_trunk_id: "ST_new", dids: [number()] }
    return {
      body,
      bad: [{ body: { ...body, dids: [number(), "anonymous"] }, path: "dids[1]" }],
      conflicts: [
        { body: { ...body, name: other.name }, field: "name" },
        { body: { ...body, lk_inbound_trunk_id: other.lk_inbound_trunk_id }, field: "lk_inbound_trunk_id" },
        { body: { ...body, dids: [number(), other.dids[0].number] }, field: "dids[1]" },
      ],
    }
  },
  "carriers.update": async () => {
    const [mine, other] = [await carrier(), await carrier()]
    return {
      parameters: { id: mine.id },
      body: { name: name(), lk_inbound_trunk_id: null, dids: [number()], archived: true },
      bad: [{ body: { dids: ["anonymous"] }, path: "dids[0]" }],
      conflicts: [
        { body: { name: other.name }, field: "name" },
        { body: { lk_inbound_trunk_id: other.lk_inbound_trunk_id }, field: "lk_inbound_trunk_id" },
        { body: { dids: [other.dids[0].number] }, field: "dids[0]" },
      ],
    }
  },
  "carriers.delete": async () => ({ parameters: { id: (await carrier()).id } }),

  "tenants.list": () => ({ parameters: { limit: 1 } }),
  "tenants.get": async () => ({ parameters: { id: (await tenant()).id } }),
  "tenants.create": async () => ({
    body: { name: name(), default_agent: "an-agent" },
    conflicts: [{ body: { name: (await tenant()).name }, field: "name" }],
  }),
  "tenants.update": async () => ({
    parameters: { id: (await tenant()).id },
    body: { name: name(), default_agent: null },
    conflicts: [{ body: { name: (await tenant()).name }, field: "name" }],
  }),
  "tenants.delete": async () => ({
    parameters: { id: (await tenant()).id },
    conflicts: [{ parameters: { id: (await campaign()).tenant_id }, field: "campaigns" }],
  }),

  "campaigns.list": async () => ({ parameters: { limit: 1, tenant_id: (await campaign()).tenant_id } }),
  "campaigns.get": async () => ({ parameters: { id: (await campaign()).id } }),
  "campaigns.create": async () => {
    const other = await campaign()
    const body = { tenant_id: other.tenant_id, name: name(), agent_name: "an-agent", active: true }
    return {
      body,
      bad: [{ body: { ...body, tenant_id: missing }, path: "tenant_id" }],
      conflicts: [{ body: { ...body, name: other.name }, field: "name" }],
    }
  },
  "campaigns.update": async () => {
    const [mine, other] = [await campaign(), await campaign()]
    return {
      parameters: { id: mine.id },
      body: { tenant_id: other.tenant_id, name: name(), agent_name: null, active: false },
      bad: [{ body: { tenant_id: missing }, path: "tenant_id" }],
      conflicts: [{ body: { tenant_id: other.tenant_id, name: other.name }, field: "name" }],
    }
  },
  "campaigns.delete": async () => ({
    parameters: { id: (await campaign()).id },
    conflicts: [{ parameters: { id: (await did()).campaign_id }, field: "dids" }],
  }),

  "dids.list": async () => {
    const { id: campaign_id, tenant_id } = await campaign()
    const given = { number: number(), carrier_id: (await carrier()).id, tenant_id, campaign_id }
    await make("dids.create", given)
    return {
      parameters: { limit: 1, ...given },
      bad: [{ parameters: { number: "anonymous" }, path: "number" }],
    }
  },
  "dids.get": async () => ({ parameters: { id: (await did()).number } }),
  "dids.create": async () => {
    const [other, stranger] = [await did(), await tenant()]
    const { id, tenant_id } = await campaign()
    const carrier_id = (await carrier()).id
    const body = { number: number(), carrier_id, tenant_id, campaign_id: id, target: "fleet" }
    return {
      body,
      bad: [
        { body: { ...body, number: "anonymous" }, path: "number" },
        { body: { ...body, carrier_id: missing }, path: "carrier_id" },
        { body: { ...body, tenant_id: stranger.id }, path: "campaign_id" },
      ],
      conflicts: [{ body: { ...body, number: other.number }, field: "number" }],
    }
  },
  "dids.update": async () => {
    const [mine, other, stranger] = [await did(), await did(), await tenant()]
    return {
      parameters: { id: mine.number.slice(1) },
      body: { number: number(), carrier_id: null, tenant_id: null, campaign_id: null, target: null },
      bad: [
        { body: { number: "anonymous" }, path: "number" },
        { body: { tenant_id: stranger.id }, path: "campaign_id" },
      ],
      conflicts: [{ body: { number: other.number }, field: "number" }],
    }
  },
  "dids.delete": async () => ({ parameters: { id: (await did()).id } }),

  "calls.list": () => ({
    parameters: {
      ...{ limit: 1, from: "2026-01-01T00:00:00Z", to: "2999-01-01T00:00:00+02:00", unanswered: true },
      ...{ direction: "inbound", status: "ringing", outcome: "accepted", worker: "first" },
      ...{ tenant_id: call.tenant_id, campaign_id: call.campaign_id, did: call.did_id, number: call.caller },
    },
    bad: [
      { parameters: { number: "anonymous" }, path: "number" },
      { parameters: { did: "short" }, path: "did" },
      { parameters: { from: "2026-01-02T00:00:00Z", to: "2026-01-01T00:00:00Z" }, path: "to" },
    ],
  }),
  "calls.get": () => ({ parameters: { id: call.id }, unknown: { id: "日".repeat(512) } }),
  "leads.list": () => ({
    parameters: {
      ...{ limit: 1, campaign_id: call.campaign_id, status: "calling", number: call.lead.number },
    },
    bad: [{ parameters: { number: "anonymous" }, path: "number" }],
  }),
  "leads.get": () => ({ parameters: { id: call.lead.id } }),
  "sessions.list": () => ({ parameters: { limit: 1, status: "ready", room_name: call.room_name } }),
  "sessions.get": () => ({ parameters: { id: call.session.id }, unknown: { id: "RM_nowhere" } }),
}

const texts = ["", "?", "2026-01-01", "x".repeat(513)]
const values = [...texts, null, true, 7, [], {}]

/** What the file refuses in a path: there is nothing of that name. */
const unknownTo = (operation: Operation): ReadonlyArray<Parameters> =>
  operation.parameters.flatMap(({ in: place, name, schema }) =>
    place === "path"
      ? texts.filter((text) => text !== "" && misfit(schema, text)).map((text) => ({ [name]: text }))
      : [],
  )

/** What the file refuses in a query, one thing at a time, by the path that has to be named. */
const badQueries = (operation: Operation): ReadonlyArray<readonly [path: string, Parameters]> => {
  const queries = operation.parameters.filter((parameter) => parameter.in === "query")
  const bad = queries.flatMap(({ name, schema }) =>
    [...texts, ...(name === "limit" ? [0, 201, 1.5] : [])]
      .filter((value) => misfit(schema, value) !== undefined)
      .map((value) => [name, { [name]: value }] as const),
  )
  // Only the service knows what a cursor is, and unknown names are nothing that a file could list.
  return queries.length === 0 ? [] : [...bad, ["cursor", { cursor: "?" }], ["nobody", { nobody: "x" }]]
}

/** The same for a body; a text is the whole of it. */
const badBodies = (operation: Operation, body: Body): ReadonlyArray<readonly [path: string, unknown]> => {
  const { properties, required = [] }: ReturnType<typeof JSON.parse> = bodySchemaOf(operation)
  const bad = Object.entries<{ readonly items?: object }>(properties).flatMap(([name, schema]) => [
    ...values
      .filter((value) => misfit(schema, value) !== undefined)
      .map((value) => [name, { ...body, [name]: value }] as const),
    ...values
      .filter((value) => schema.items !== undefined && misfit(schema.items, value) !== undefined)
      .map((value) => [`${name}[0]`, { ...body, [name]: [value] }] as const),
  ])
  return [
    ...bad,
    ...required.map((name: string) => [name, { ...body, [name]: undefined }] as const),
    ["nobody", { ...body, nobody: "x" }],
    ...["", "{", "null", "[]", "7", '"x"'].map((text) => ["", text] as const),
  ]
}

it("is served as it stands in the repository", async () => {
  const file = await readFile(`${root}openapi.json`, "utf8")
  expect(JSON.parse((await open.get("/openapi.json")).text)).toEqual(JSON.parse(file))
})

describe("each operation", () => {
  it("has a case, and no case is without one", () => {
    expect(Object.keys(cases).sort()).toEqual(operations.map(({ operationId }) => operationId).sort())
  })

  it.each(operations.map(({ operationId }) => operationId))("%s", async (operationId) => {
    const operation = operationNamed(operationId)
    const { bad = [], body, conflicts = [], parameters = {}, unknown } = (await cases[operationId]?.()) ?? {}
    const declared = Object.keys(operation.responses).map(Number)
    const seen = new Set<number>()
    const calling =
      (client: AdminClient) =>
      async (
        given: { readonly parameters?: Parameters; readonly body?: unknown } = {},
        headers: Record<string, string> = {},
      ) => {
        const told = await client(
          operationId,
          { ...parameters, ...given.parameters },
          "body" in given ? given.body : body,
          headers,
        )
        seen.add(told.status)
        return told
      }
    const asOperator = calling(admin)

    for (const token of ["", "wrong", `${adminToken}x`, adminToken.slice(1)])
      expectProblem(await calling(adminOf(open.url, token))(), 401)
    const basic = { authorization: `Basic ${btoa(`admin:${adminToken}`)}` }
    expectProblem(await calling(adminOf(open.url, ""))({}, basic), 401)
    for (const token of ["", adminToken])
      expectProblem(await calling(adminOf(closed.url, token))(), 404, { detail: "There is nothing here" })

    const whileAway = await calling(adminOf(away.url))()
    if (declared.includes(503)) expectProblem(whileAway, 503)
    else expect(whileAway.status).toBe(200)

    const inPath = operation.parameters.some((parameter) => parameter.in === "path")
    for (const nothing of inPath ? [unknown ?? { id: missing }, ...unknownTo(operation)] : [])
      expectProblem(await asOperator({ parameters: nothing }), 404, { detail: expect.stringMatching(/^No/) })
    for (const [path, query] of badQueries(operation))
      expectBad(await asOperator({ parameters: query }), path)
    if (body !== undefined) {
      for (const [path, wrong] of badBodies(operation, body))
        expectBad(await asOperator({ body: wrong }), path)
      expectProblem(await asOperator({}, { "content-type": "text/plain" }), 415)
      expectProblem(await asOperator({ body: { name: "x".repeat(1 << 20) } }), 413)
    }
    for (const { path, ...given } of bad) expectBad(await asOperator(given), path)
    for (const { field, ...given } of conflicts) expectProblem(await asOperator(given), 409, { field })

    const said = [...Object.keys(parameters), ...Object.keys(body ?? {})]
    const sayable = [
      ...operation.parameters.map((parameter) => parameter.name).filter((name) => name !== "cursor"),
      ...Object.keys((bodySchemaOf(operation) as { properties?: object } | undefined)?.properties ?? {}),
    ]
    expect(said.sort()).toEqual(sayable.sort())
    const told = await asOperator()
    expect(told).toMatchObject({ type: "application/json" })
    if (operationId.endsWith(".list")) expect(told.body.items).not.toEqual([])
    expect([...seen].sort()).toEqual(declared.filter((status) => status !== 500))
  })
})

it("deletes a carrier that is given a number at the same moment", async () => {
  const attempt = async () => {
    const [{ id }, added] = [await carrier(), number()]
    const giver = new pg.Client({ connectionString: database.url })
    await giver.connect()
    try {
      // It is there, as yet for nobody else to see.
      await giver.query("BEGIN")
      await giver.query("INSERT INTO dids (number, raw_number, carrier_id) VALUES ($1, $1, $2)", [added, id])
      const deleting = admin("carriers.delete", { id })
      await eventually("it waits for the number", async () => {
        const waiting =
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return (await database.query(waiting)).length > 0
      })
      await giver.query("COMMIT")
      return { added, deleted: await deleting }
    } finally {
      await giver.end()
    }
  }
  // Nobody waits for the other one for longer than some seconds.
  const { added, deleted } = await eventually("one that did not take too long", async () => {
    const one = await attempt()
    return one.deleted.status === 503 ? undefined : one
  })
  expect(deleted).toMatchObject({ status: 200, body: { archived: false } })
  const [left] = good(await admin("dids.list", { number: added })).items
  expect(left).toMatchObject({ number: added, carrier_id: null })
})

describe("each path", () => {
  const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
  const paths = [...new Set(operations.map(({ path }) => path))]

  it.each(paths)("%s says which methods it has", async (path) => {
    const own = operations.filter((operation) => operation.path === path)
    const allowed = methods.filter((method) =>
      own.some((operation) => operation.method === method.toLowerCase()),
    )
    for (const method of methods.filter((other) => !allowed.includes(other))) {
      const response = await fetch(open.url + path.replace(/\{\w+\}/, missing), { method })
      expect([response.status, response.headers.get("allow")]).toEqual([405, allowed.join(", ")])
      expect(await response.json()).toMatchObject({ status: 405, title: "Method Not Allowed" })
    }
  })

  it("is one of the API, or there is nothing", async () => {
    const authorization = `Bearer ${adminToken}`
    for (const path of ["/no-such-resource", "", "/tenants/x/y", "/workers/first", "/calls/%zz"]) {
      const response = await fetch(`${open.url}/api/v1/admin${path}`, { headers: { authorization } })
      expect([path, response.status, await response.json()]).toMatchObject([
        path,
        404,
        { status: 404, detail: "There is nothing here" },
      ])
    }
  })
})
