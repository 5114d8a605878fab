// The admin API on the started service: what it keeps, lists and refuses, and that what it changes is in force.

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { expectBad, expectProblem, good, made, missing } from "../support/admin-answers.ts"
import {
  type AdminClient,
  adminOf,
  adminToken,
  type Parameters,
  type Told,
  walk,
} from "../support/admin-client.ts"
import {
  type DatabaseKind,
  makeDatabase,
  makePostgresDatabase,
  type PostgresDatabase,
  type TestDatabase,
} from "../support/databases.ts"
import { joinEvent, leaveOf } from "../support/events.ts"
import { type Runtime, runtimes } from "../support/processes.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

const iso = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

const worlds: ReadonlyArray<readonly [Runtime, DatabaseKind]> = [
  ...runtimes.map((runtime) => [runtime, "postgres"] as const),
  [runtimes[0] ?? "node", "embedded"],
]

describe.each(worlds)("on %s and %s", (runtime, kind) => {
  let database: TestDatabase
  let service: Service
  let admin: AdminClient
  let worker: SampleWorker

  beforeAll(async () => {
    worker = await startWorker("first")
    database = await makeDatabase(kind)
    service = await startService(
      {
        ...database.env,
        ADMIN_TOKEN: adminToken,
        CORE_FLEET: JSON.stringify([{ url: worker.url, name: "first", capacity: 10 }]),
      },
      runtime,
    )
    admin = adminOf(service.url)
    await eventually(
      "a healthy worker",
      async () => (await admin("workers.list")).body.items?.[0]?.state === "up",
    )
  })
  afterAll(async () => {
    await service?.stop()
    await worker?.stop()
    await database?.drop()
  })

  it("reads and makes settings, each by its own rule", async () => {
    const before = good(await admin("settings.list"))
    expect(before.items.map(({ key }: { key: string }) => key)).toEqual(["core_fleet", "drained_workers"])
    expect(before.items[0].updated_at).toMatch(iso)
    expect(good(await admin("settings.get", { key: "drained_workers" }))).toEqual({
      key: "drained_workers",
      value: null,
      updated_at: null,
    })
    expect(
      good(await admin("settings.put", { key: "drained_workers" }, { value: ["nobody"] })).value,
    ).toEqual(["nobody"])
    expect(good(await admin("settings.get", { key: "drained_workers" })).value).toEqual(["nobody"])
    expectBad(await admin("settings.put", { key: "drained_workers" }, { value: [1] }), "value")
    const refused = await admin(
      "settings.put",
      { key: "core_fleet" },
      {
        value: ["ftp://x", worker.url, worker.url, "http://user:hush@y"],
      },
    )
    expectBad(refused, "value", "value", "value")
    expect(refused.body.detail).toContain("ftp://x")
    expect(refused.body.detail).toContain("is listed twice")
    expect(refused.body.detail).not.toContain("hush")
    expectBad(await admin("settings.put", { key: "core_fleet" }, {}), "value")
    expectBad(await admin("settings.put", { key: "core_fleet" }, { value: [], more: 1 }), "more")
    for (const key of ["no_such", "toString", "__proto__"]) {
      expectProblem(await admin("settings.get", { id: key }), 404)
      expectProblem(await admin("settings.put", { key }, { value: 1 }), 404)
    }
    expect(good(await admin("settings.get", { key: "core_fleet" })).value).toEqual(before.items[0].value)
  })

  it("shows the workers, and drains by name", async () => {
    // A worker is up although one probe has come to nothing.
    const view = await eventually("a probe that it has answered", async () => {
      const [first] = good(await admin("workers.list")).items
      return first.last_probe?.ok && first
    })
    expect(view).toMatchObject({
      name: "first",
      url: worker.url,
      state: "up",
      why_out: null,
      draining: false,
      load: 0,
      calls: 0,
      capacity: 10,
      in_flight: 0,
      breaker: "closed",
      last_probe: { ok: true, at: expect.stringMatching(iso), why: null },
      latency_ms: expect.any(Number),
    })
    expect(good(await admin("workers.drain", { name: "first" }))).toEqual({ name: "first", drained: true })
    expect(good(await admin("workers.list")).items[0]).toMatchObject({ state: "draining", draining: true })
    // Twice is as good as once.
    good(await admin("workers.drain", { name: "first" }))
    expect(good(await admin("settings.get", { key: "drained_workers" })).value).toEqual(["nobody", "first"])
    expect(good(await admin("workers.undrain", { name: "first" }))).toEqual({ name: "first", drained: false })
    good(await admin("workers.undrain", { name: "first" }))
    await eventually(
      "the worker back",
      async () => (await admin("workers.list")).body.items[0].state === "up",
    )
    expectProblem(await admin("workers.drain", { name: "second" }), 404)
    expectProblem(await admin("workers.undrain", { name: "second" }), 404)
    // Not in the fleet any more, and still on the list.
    good(await admin("workers.undrain", { name: "nobody" }))
    expectProblem(await admin("workers.undrain", { name: "nobody" }), 404)
  })

  it("keeps tenants and campaigns", async () => {
    const tenant = made(await admin("tenants.create", {}, { name: "Acme", default_agent: "acme-agent" }))
    expect(tenant).toMatchObject({
      name: "Acme",
      default_agent: "acme-agent",
      created_at: expect.stringMatching(iso),
    })
    const other = made(await admin("tenants.create", {}, { name: "Umbrella" }))
    expect(other.default_agent).toBeNull()
    expectProblem(await admin("tenants.create", {}, { name: "Acme" }), 409, { field: "name" })
    expectProblem(await admin("tenants.update", { id: other.id }, { name: "Acme" }), 409, { field: "name" })
    expect(good(await admin("tenants.get", { id: tenant.id }))).toEqual(tenant)
    expect(good(await admin("tenants.update", { id: tenant.id }, {}))).toEqual(tenant)
    expect(
      good(await admin("tenants.update", { id: tenant.id }, { default_agent: null })).default_agent,
    ).toBeNull()
    expectBad(await admin("tenants.create", {}, { name: " " }), "name")
    expectBad(await admin("tenants.create", {}, { nam: "x" }), "nam", "name")
    expectBad(await admin("tenants.create", {}, { name: "a\u0000b" }), "name")
    expectBad(await admin("tenants.update", { id: tenant.id }, { default_agent: 7 }), "default_agent")

    const campaign = made(
      await admin("campaigns.create", {}, { tenant_id: tenant.id, name: "Spring", agent_name: "a" }),
    )
    expect(campaign).toMatchObject({ tenant_id: tenant.id, name: "Spring", agent_name: "a", active: true })
    expectProblem(await admin("campaigns.create", {}, { tenant_id: tenant.id, name: "Spring" }), 409, {
      field: "name",
    })
    expectBad(await admin("campaigns.create", {}, { tenant_id: missing, name: "Spring" }), "tenant_id")
    expectBad(await admin("campaigns.create", {}, { tenant_id: "x", name: "Spring" }), "tenant_id")
    const paused = good(
      await admin("campaigns.update", { id: campaign.id }, { active: false, agent_name: null }),
    )
    expect(paused).toEqual({ ...campaign, active: false, agent_name: null })
    expect(good(await admin("campaigns.get", { id: campaign.id }))).toEqual(paused)
    expect(good(await admin("campaigns.list", { tenant_id: tenant.id })).items).toEqual([paused])
    expect(good(await admin("campaigns.list", { tenant_id: other.id })).items).toEqual([])

    expectProblem(await admin("tenants.delete", { id: tenant.id }), 409, { field: "campaigns" })
    expect(good(await admin("campaigns.delete", { id: campaign.id }))).toEqual({ id: campaign.id })
    expect(good(await admin("tenants.delete", { id: tenant.id }))).toEqual({ id: tenant.id })
    for (const id of [tenant.id, "x"]) {
      expectProblem(await admin("tenants.get", { id }), 404)
      expectProblem(await admin("tenants.update", { id }, { name: "y" }), 404)
      expectProblem(await admin("tenants.delete", { id }), 404)
    }
    for (const id of [campaign.id, "x"]) {
      expectProblem(await admin("campaigns.get", { id }), 404)
      expectProblem(await admin("campaigns.update", { id }, { name: "y" }), 404)
      expectProblem(await admin("campaigns.delete", { id }), 404)
    }
    good(await admin("tenants.delete", { id: other.id }))
  })

  it("keeps DIDs", async () => {
    const tenant = made(await admin("tenants.create", {}, { name: "With numbers" }))
    const stranger = made(await admin("tenants.create", {}, { name: "Without" }))
    const campaign = made(await admin("campaigns.create", {}, { tenant_id: tenant.id, name: "Numbers" }))
    const did = made(
      await admin("dids.create", {}, { number: "(858) 879-6001", campaign_id: campaign.id, target: "agent" }),
    )
    expect(did).toMatchObject({
      number: "+18588796001",
      raw_number: "(858) 879-6001",
      type: "local",
      carrier_id: null,
      tenant_id: null,
      campaign_id: campaign.id,
      target: "agent",
    })
    expectProblem(await admin("dids.create", {}, { number: "tel:+1-858-879-6001" }), 409, { field: "number" })
    expectBad(await admin("dids.create", {}, { number: "anonymous" }), "number")
    expectBad(await admin("dids.create", {}, { number: 8588796002 }), "number")
    expectBad(await admin("dids.create", {}, { number: "+18588796002", target: "nobody" }), "target")
    expectBad(await admin("dids.create", {}, { number: "+18588796002", carrier_id: missing }), "carrier_id")
    const mixed = { number: "+18588796002", campaign_id: campaign.id, tenant_id: stranger.id }
    expectBad(await admin("dids.create", {}, mixed), "campaign_id")
    expectBad(await admin("dids.update", { id: did.id }, { tenant_id: stranger.id }), "campaign_id")
    const changed = good(await admin("dids.update", { id: did.id }, { tenant_id: tenant.id, target: null }))
    expect(changed).toEqual({ ...did, tenant_id: tenant.id, target: null })
    expect(good(await admin("dids.get", { id: did.id }))).toEqual(changed)
    expect(good(await admin("dids.list", { number: "858-879-6001" })).items).toEqual([changed])
    expect(good(await admin("dids.list", { campaign_id: campaign.id })).items).toEqual([changed])
    expect(good(await admin("dids.list", { tenant_id: stranger.id })).items).toEqual([])
    expectProblem(await admin("campaigns.delete", { id: campaign.id }), 409, { field: "dids" })
    expectProblem(await admin("tenants.delete", { id: tenant.id }), 409, {
      field: expect.stringMatching(/campaigns|dids/),
    })
    const other = good(await admin("dids.update", { id: did.id }, { number: "800 555 1234" }))
    expect(other).toEqual({
      ...changed,
      number: "+18005551234",
      raw_number: "800 555 1234",
      type: "toll-free",
    })
    expect(good(await admin("dids.delete", { id: did.id }))).toEqual({ id: did.id })
    for (const id of [did.id, "x"]) {
      expectProblem(await admin("dids.get", { id }), 404)
      expectProblem(await admin("dids.update", { id }, { target: null }), 404)
      expectProblem(await admin("dids.delete", { id }), 404)
    }
  })

  it("keeps carriers with their DIDs in order", async () => {
    const carrier = made(
      await admin(
        "carriers.create",
        {},
        {
          name: "Telco",
          lk_inbound_trunk_id: "ST_telco",
          dids: ["+18588797002", "(858) 879-7001"],
        },
      ),
    )
    const numbers = (told: { dids: ReadonlyArray<{ number: string }> }) =>
      told.dids.map(({ number }) => number)
    expect(carrier).toMatchObject({ archived_at: null, did_count: 2, lk_inbound_trunk_id: "ST_telco" })
    expect(numbers(carrier)).toEqual(["+18588797002", "+18588797001"])
    const taken = await admin(
      "carriers.create",
      {},
      { name: "Other", dids: ["+18588797003", "+1 858 879 7001"] },
    )
    expectProblem(taken, 409, { field: "dids[1]" })
    expectProblem(await admin("carriers.create", {}, { name: "Telco" }), 409, { field: "name" })
    const sameTrunk = { name: "Other", lk_inbound_trunk_id: "ST_telco" }
    expectProblem(await admin("carriers.create", {}, sameTrunk), 409, { field: "lk_inbound_trunk_id" })
    expectBad(
      await admin("carriers.create", {}, { name: "Other", dids: ["x", "+18588797003", "8588797003"] }),
      "dids[0]",
      "dids[2]",
    )
    expectBad(await admin("carriers.create", {}, { name: "Other", dids: [1] }), "dids[0]")
    // Nothing of what was refused is there.
    expect(good(await admin("carriers.list")).items).toEqual([carrier])
    expect(good(await admin("dids.list", { number: "+18588797003" })).items).toEqual([])

    const reordered = good(
      await admin("carriers.update", { id: carrier.id }, { dids: ["+18588797001", "+18588797004"] }),
    )
    expect(numbers(reordered)).toEqual(["+18588797001", "+18588797004"])
    expect(good(await admin("dids.list", { number: "+18588797002" })).items[0]).toMatchObject({
      type: "local",
      carrier_id: null,
    })
    expect(good(await admin("carriers.get", { id: carrier.id }))).toEqual(reordered)
    const third = made(await admin("dids.create", {}, { number: "+18588797005", carrier_id: carrier.id }))
    expect(third.position).toBe(2)
    expect(good(await admin("carriers.update", { id: carrier.id }, { name: "Telco Ltd" })).did_count).toBe(3)
    // Without a carrier a number is free to be taken.
    const second = made(await admin("carriers.create", {}, { name: "Second", dids: ["+18588797002"] }))
    expectProblem(await admin("carriers.update", { id: second.id }, { dids: ["+18588797001"] }), 409, {
      field: "dids[0]",
    })
    expect(numbers(good(await admin("carriers.get", { id: second.id })))).toEqual(["+18588797002"])

    expect(good(await admin("carriers.delete", { id: second.id }))).toEqual({
      id: second.id,
      archived: false,
    })
    expect(good(await admin("carriers.delete", { id: carrier.id }))).toEqual({
      id: carrier.id,
      archived: false,
    })
    expect(good(await admin("dids.list", { number: "+18588797005" })).items[0]).toMatchObject({
      carrier_id: null,
    })
    for (const id of [carrier.id, "x"]) {
      expectProblem(await admin("carriers.get", { id }), 404)
      expectProblem(await admin("carriers.update", { id }, { name: "y" }), 404)
      expectProblem(await admin("carriers.delete", { id }), 404)
    }
  })

  it("lists calls by whatever an operator knows, and shows one with everything", async () => {
    const tenant = made(await admin("tenants.create", {}, { name: "Called" }))
    const campaign = made(await admin("campaigns.create", {}, { tenant_id: tenant.id, name: "Answering" }))
    const carrier = made(
      await admin(
        "carriers.create",
        {},
        {
          name: "Carrying",
          lk_inbound_trunk_id: "ST_carrying",
          dids: ["+18588798001"],
        },
      ),
    )
    const [did] = carrier.dids
    good(await admin("dids.update", { id: did.id }, { campaign_id: campaign.id }))
    let rung = 0
    // The dialed number is hidden: the carrier's first DID stands in for it, once the replica knows of it.
    const hidden = () =>
      joinEvent({
        attributes: {
          "sip.callID": `SCL_admin_${runtime}_${kind}_${rung++}`,
          "sip.trunkID": "ST_carrying",
          "sip.ruleID": "SDR_1",
          "sip.phoneNumber": "+15551230001",
          "sip.callStatus": "ringing",
        },
      })
    const dialedNow = async () => {
      await service.ring(hidden())
      return worker.seen.at(-1)?.body["dialed_number"]
    }
    await eventually("the DID known", async () => (await dialedNow()) === "+18588798001")
    // The more often that was asked, the fuller the worker is, until the next probe.
    await eventually("room at the worker", async () => good(await admin("workers.list")).items[0].calls < 5)
    const join = hidden()
    const callId = join.participant.attributes["sip.callID"] ?? ""
    const since = new Date(Date.now() - 5_000).toISOString()
    expect((await service.ring(join)).status).toBe(200)
    const call = good(await admin("calls.get", { id: callId }))
    expect(call).toMatchObject({
      call_id: callId,
      direction: "inbound",
      status: "ringing",
      state: "accepted",
      outcome: "accepted",
      caller_e164: "+15551230001",
      dialed_e164: "+18588798001",
      target: "fleet",
      worker: "first",
      tenant_id: tenant.id,
      campaign_id: campaign.id,
      did_id: did.id,
      unanswered: true,
      answerers: [],
      answer: { status: 200, body: { ok: true, worker: "first" } },
      metadata: { call_type: "inbound", from_number: "+15551230001" },
      explanation: { considered: [{ worker: "first", verdict: "picked" }] },
      attempts: [
        { attempt: 1, worker: "first", outcome: "accepted", status: 200, took_ms: expect.any(Number) },
      ],
      lead: { number: "+15551230001", campaign_id: campaign.id, status: "calling" },
      session: { room_sid: join.room.sid, status: "ready" },
    })
    expect(call.started_at).toMatch(iso)
    expect(JSON.stringify(call)).not.toContain("test-core-secret")
    expect(good(await admin("calls.get", { id: call.id }))).toEqual(call)
    expectProblem(await admin("calls.get", { id: "no-such-call" }), 404)
    expectProblem(await admin("calls.get", { id: missing }), 404)

    const found = async (search: Parameters) =>
      good(await admin("calls.list", search)).items.map(({ id }: { id: string }) => id)
    for (const search of [
      {},
      { direction: "inbound" },
      { status: "ringing" },
      { outcome: "accepted" },
      { tenant_id: tenant.id },
      { campaign_id: campaign.id },
      { did: did.id },
      { did: "(858) 879-8001" },
      { number: "8588798001" },
      { number: "sip:+15551230001@198.51.100.7" },
      { worker: "first" },
      { unanswered: true },
      { from: since },
      { from: since, to: "2999-01-01T00:00:00Z", status: "ringing", number: "+15551230001", limit: 200 },
    ]) {
      expect([search, (await found(search))[0]]).toEqual([search, call.id])
    }
    for (const search of [
      { direction: "outbound" },
      { status: "failed" },
      { outcome: "rejected" },
      { tenant_id: missing },
      { campaign_id: missing },
      { did: missing },
      { did: "+18588799999" },
      { number: "+15551239999" },
      { worker: "second" },
      { unanswered: false },
      { to: since.replace(/^2/, "1") },
    ]) {
      expect([search, await found(search)]).toEqual([search, []])
    }
    expectBad(await admin("calls.list", { number: "anonymous" }), "number")
    expectBad(await admin("calls.list", { did: "short" }), "did")
    expectBad(
      await admin("calls.list", { limit: 201, from: "yesterday", status: "odd" }),
      "limit",
      "from",
      "status",
    )
    expectBad(await admin("calls.list", { from: "2026-01-02T00:00:00Z", to: "2026-01-01T00:00:00Z" }), "to")
    expectBad(await admin("calls.list", { cursor: "abc" }), "cursor")
    expectBad(await admin("calls.list", { wroker: "first" }), "wroker")

    await service.ring(leaveOf(join))
    await eventually(
      "a missed call",
      async () => (await admin("calls.get", { id: call.id })).body.status === "missed",
    )
    expect((await found({ status: "missed" }))[0]).toBe(call.id)

    const leads = good(await admin("leads.list", { campaign_id: campaign.id })).items
    expect(leads).toHaveLength(1)
    expect(leads[0]).toMatchObject({ number: "+15551230001", tenant_id: tenant.id })
    expect(good(await admin("leads.get", { id: leads[0].id }))).toMatchObject({ id: leads[0].id })
    expect(good(await admin("leads.list", { number: "555-123-0001" })).items).toHaveLength(1)
    expect(good(await admin("leads.list", { status: "failed" })).items).toEqual([])
    expectBad(await admin("leads.list", { status: "odd", number: "x" }), "status")
    expectBad(await admin("leads.list", { number: "x" }), "number")
    expectProblem(await admin("leads.get", { id: missing }), 404)

    const sessions = good(await admin("sessions.list", { room_name: join.room.name })).items
    expect(sessions).toMatchObject([
      { id: join.room.sid, room_name: join.room.name, status: "ready", ended_at: null },
    ])
    expect(good(await admin("sessions.get", { id: join.room.sid }))).toEqual(sessions[0])
    expect(good(await admin("sessions.list", { status: "stopped" })).items).toEqual([])
    expectProblem(await admin("sessions.get", { id: "RM_nowhere" }), 404)

    // The numbers of a carrier that has delivered calls are still its own, but they do not stand in for any more.
    expectProblem(await admin("campaigns.delete", { id: campaign.id }), 409, {
      field: expect.stringMatching(/dids|leads/),
    })
    expect(good(await admin("carriers.delete", { id: carrier.id }))).toEqual({
      id: carrier.id,
      archived: true,
    })
    const archived = good(await admin("carriers.get", { id: carrier.id }))
    expect(archived).toMatchObject({ archived_at: expect.stringMatching(iso), did_count: 1 })
    expectProblem(await admin("carriers.create", {}, { name: "Carrying" }), 409, { field: "name" })
    await eventually("no DID for the trunk", async () => (await dialedNow()) === "")
    expect(
      good(await admin("carriers.update", { id: carrier.id }, { archived: false })).archived_at,
    ).toBeNull()
    await eventually("the DID again", async () => (await dialedNow()) === "+18588798001")
  })

  it("lets one of many have what only one can have", async () => {
    const statuses = (told: ReadonlyArray<Told>) => told.map(({ status }) => status).sort()
    const eight = Array.from({ length: 8 }, (_, n) => n)
    const oneOf = [201, ...Array<number>(7).fill(409)]
    expect(
      statuses(await Promise.all(eight.map(() => admin("tenants.create", {}, { name: "Only one" })))),
    ).toEqual(oneOf)
    expect(
      statuses(await Promise.all(eight.map(() => admin("dids.create", {}, { number: "+18588790001" })))),
    ).toEqual(oneOf)
    // In either order: nobody waits for somebody who waits for them.
    const many = Array.from({ length: 200 }, (_, n) => `+1858601${1000 + n}`)
    const racing = await Promise.all(
      eight.map((n) =>
        admin("carriers.create", {}, { name: `Racing ${n}`, dids: n % 2 === 0 ? many : many.toReversed() }),
      ),
    )
    expect(statuses(racing)).toEqual(oneOf)
    const winner = racing.find(({ status }) => status === 201)?.body
    for (const told of racing) if (told.body !== winner) expectProblem(told, 409, { field: "dids[0]" })
    const carriers = (await walk(admin, "carriers.list")).filter(({ name }) => name.startsWith("Racing"))
    expect(carriers).toEqual([winner])
    // One that is there already, and nobody's.
    const free = made(await admin("dids.create", {}, { number: "+18588790004" }))
    const waiting = await Promise.all(
      eight.map(async (n) => made(await admin("carriers.create", {}, { name: `Waiting ${n}` }))),
    )
    const taking = await Promise.all(
      waiting.map(({ id }) => admin("carriers.update", { id }, { dids: ["+18588790005", free.number] })),
    )
    expect(statuses(taking)).toEqual([200, ...Array<number>(7).fill(409)])
    for (const told of taking) if (told.status === 409) expectProblem(told, 409, { field: "dids[0]" })
  })

  it("drains many at once", async () => {
    const { value: fleet } = good(await admin("settings.get", { key: "core_fleet" }))
    const eight = Array.from({ length: 8 }, (_, n) => `other ${n}`)
    const others = eight.map((name, n) => ({ name, url: `http://127.0.0.1:${n + 1}` }))
    const value = [{ url: worker.url, name: "first", capacity: 10 }, ...others]
    good(await admin("settings.put", { key: "core_fleet" }, { value }))
    const all = (operationId: string, names: ReadonlyArray<string>) =>
      names.map(async (name) => good(await admin(operationId, { name })))
    const [some, rest] = [eight.slice(0, 4), eight.slice(4)]
    await Promise.all(all("workers.drain", some))
    // Each adds its own name to one list, or takes it out.
    await Promise.all([...all("workers.undrain", some), ...all("workers.drain", rest)])
    const { value: drained } = good(await admin("settings.get", { key: "drained_workers" }))
    expect(drained.filter((name: string) => eight.includes(name)).sort()).toEqual(rest)
    await Promise.all(all("workers.undrain", rest))
    good(await admin("settings.put", { key: "core_fleet" }, { value: fleet }))
    await eventually("only the first", async () => (await admin("workers.list")).body.items.length === 1)
  })

  it("serves the document and a page that asks nobody else for anything", async () => {
    const page = await service.get("/docs")
    expect(page.status).toBe(200)
    expect(page.text).toContain("Switchhook admin API")
    expect(page.text).not.toMatch(/<(?:script|link|img)[^>]+(?:src|href)=/)
    expect(page.text).toContain('"withDefaultFonts":false')
    expect(page.text).toContain('"telemetry":false')
    const policyOf = async (path: string) =>
      (await fetch(service.url + path)).headers.get("content-security-policy")?.split("; ")
    expect(await policyOf("/docs")).toEqual([
      "default-src 'none'",
      // The two scripts of the page, and no other.
      expect.stringMatching(/^script-src(?: 'sha256-[\w+/]{43}='){2}$/),
      "style-src 'unsafe-inline'",
      "img-src data:",
      "connect-src 'self'",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
    ])
    expect(await policyOf("/openapi.json")).toBeUndefined()
  })
})

describe.each(runtimes)("with several replicas on %s", (runtime) => {
  const toStop: Array<() => Promise<unknown>> = []
  const later = <A extends { readonly stop: () => Promise<unknown> }>(started: A): A => {
    toStop.push(started.stop)
    return started
  }
  let database: PostgresDatabase
  const makeBase = async () => {
    database = await makePostgresDatabase()
    toStop.unshift(database.drop)
    return { ...database.env, ADMIN_TOKEN: adminToken }
  }
  afterEach(async () => {
    for (const stop of toStop.splice(0).reverse()) await stop()
  })

  it("drains for every replica and over a restart, and really sends no call there", async () => {
    const env = await makeBase()
    const [one, two] = [later(await startWorker("one")), later(await startWorker("two"))]
    const fleet = JSON.stringify([
      { url: one.url, name: "one" },
      { url: two.url, name: "two" },
    ])
    const start = () => startService({ ...env, CORE_FLEET: fleet }, runtime)
    const left = later(await start())
    const right = later(await start())
    const stateAt = async (service: Service, name: string) =>
      good(await adminOf(service.url)("workers.list")).items.find(
        (item: { name: string }) => item.name === name,
      )?.state
    for (const service of [left, right])
      await eventually(
        "both up",
        async () => (await stateAt(service, "one")) === "up" && (await stateAt(service, "two")) === "up",
      )

    // One call is under way when its worker is drained: it goes on to its end.
    let finish = () => {}
    one.behaviour.dispatch = (_, response) => {
      finish = () => response.writeHead(200, { "content-type": "application/json" }).end('{"slow":true}')
    }
    two.behaviour.health = { status: 200, body: { status: "draining" } }
    await eventually("only one left", async () => (await stateAt(left, "two")) === "draining")
    const under = left.ring(joinEvent())
    await eventually("the call at its worker", () => one.seen.length === 1)
    two.behaviour.health = { status: 200, body: {} }
    await eventually(
      "both up",
      async () => (await stateAt(left, "two")) === "up" && (await stateAt(right, "two")) === "up",
    )
    good(await adminOf(left.url)("workers.drain", { name: "one" }))
    expect(await stateAt(left, "one")).toBe("draining")
    finish()
    expect((await under).body).toBe('{"slow":true}')
    await eventually("seen by the other", async () => (await stateAt(right, "one")) === "draining")

    await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 === 0 ? left : right).ring(joinEvent())))
    expect([one.seen.length, two.seen.length]).toEqual([1, 20])

    await left.stop()
    const again = later(await start())
    await eventually("up", async () => (await stateAt(again, "two")) === "up")
    expect(await stateAt(again, "one")).toBe("draining")
    await Promise.all(Array.from({ length: 10 }, () => again.ring(joinEvent())))
    expect(one.seen).toHaveLength(1)

    one.behaviour.dispatch = two.behaviour.dispatch
    good(await adminOf(again.url)("workers.undrain", { name: "one" }))
    await eventually(
      "back for both",
      async () => (await stateAt(again, "one")) === "up" && (await stateAt(right, "one")) === "up",
    )
    await Promise.all(Array.from({ length: 30 }, () => right.ring(joinEvent())))
    expect(one.seen.length).toBeGreaterThan(1)
  })

  it("puts a new core_fleet in force in every replica", async () => {
    const env = await makeBase()
    const [old, fresh] = [later(await startWorker("old")), later(await startWorker("fresh"))]
    const left = later(await startService({ ...env, CORE_FLEET: old.url }, runtime))
    const right = later(await startService({ ...env, CORE_FLEET: old.url }, runtime))
    await eventually("old up", async () => (await left.ring(joinEvent())).status === 200)
    const value = [{ url: fresh.url, name: "fresh", draining: true }]
    good(await adminOf(left.url)("settings.put", { key: "core_fleet" }, { value }))
    for (const { url } of [left, right])
      await eventually(
        "the new fleet",
        async () => (await adminOf(url)("workers.list")).body.items[0]?.name === "fresh",
      )
    // What core_fleet itself says cannot be taken back elsewhere.
    expectProblem(await adminOf(left.url)("workers.undrain", { name: "fresh" }), 409, { field: "core_fleet" })
    good(await adminOf(right.url)("settings.put", { key: "core_fleet" }, { value: fresh.url }))
    const before = old.seen.length
    for (const service of [left, right])
      await eventually("calls to it", async () => (await service.ring(joinEvent())).status === 200)
    expect(old.seen).toHaveLength(before)
    expect(fresh.seen.length).toBeGreaterThan(1)
  })

  it("walks every row exactly once while rows are added, and searches without an end in sight", async () => {
    const env = await makeBase()
    const service = later(await startService(env, runtime))
    const admin = adminOf(service.url)
    const insert = (count: number, startMs: number, worker: string) =>
      database.query<{ id: string }>(
        `INSERT INTO calls (id, call_key, state, direction, status, room_key, worker, caller_e164, dialed_e164, started_at_ms)
         SELECT gen_random_uuid(), gen_random_uuid()::text, 'accepted', 'inbound', 'completed', '', $3,
           CASE WHEN n % 2 = 0 THEN '+15550000001' END, CASE WHEN n % 3 = 0 THEN '+15550000001' END, $2::bigint + n / 4
         FROM generate_series(1, $1::int) n RETURNING id`,
        [count, startMs, worker],
      )
    await database.query("ALTER TABLE calls DISABLE TRIGGER USER")
    const base = Date.now() - 3_600_000
    const known = (await insert(500, base, "w")).map(({ id }) => id)
    const idsOf = (items: ReadonlyArray<{ id: string }>) => items.map(({ id }) => id)
    const walked = idsOf(
      await walk(admin, "calls.list", { limit: 7 }, () => insert(3, base + 1_000_000, "later")),
    )
    expect(new Set(walked).size).toBe(walked.length)
    expect(walked).toEqual(expect.arrayContaining(known))
    const byNumber = idsOf(
      await walk(admin, "calls.list", {
        limit: 11,
        number: "+15550000001",
        to: new Date(base + 500_000).toISOString(),
      }),
    )
    expect(byNumber).toHaveLength(333)
    expect(new Set(byNumber).size).toBe(333)

    // Its calls are those to each number that it had, and none of another DID that has had one of them.
    const did = made(await admin("dids.create", {}, { number: "+15550000001" }))
    good(await admin("dids.update", { id: did.id }, { number: "+15550000002" }))
    const ofDid = await database.query<{ id: string }>(
      `UPDATE calls SET did_id = $1::uuid, dialed_e164 = CASE WHEN mod(started_at_ms, 2) = 0 THEN dialed_e164 ELSE '+15550000002' END
       WHERE worker = 'w' AND dialed_e164 IS NOT NULL AND mod(started_at_ms, 5) > 0 RETURNING id`,
      [did.id],
    )
    const byDid = () => walk(admin, "calls.list", { limit: 11, did: did.id })
    const walkedDid = await byDid()
    expect(idsOf(walkedDid).toSorted()).toEqual(ofDid.map(({ id }) => id).toSorted())
    expect(new Set(walkedDid.map(({ dialed_e164 }) => dialed_e164)).size).toBe(2)
    const times = walkedDid.map(({ started_at }) => started_at)
    expect(times).toEqual(times.toSorted().toReversed())
    const both = { did: did.id, number: "+15550000001" }
    expect(await walk(admin, "calls.list", both)).not.toEqual([])
    good(await admin("dids.delete", { id: did.id }))
    expect(await byDid()).toEqual(walkedDid)

    // Two needles, more than one share of the search apart.
    const needles = [
      ...(await insert(1, base - 10_000_000, "needle")),
      ...(await insert(1, base - 20_000_000, "needle")),
    ]
    await insert(25_000, base - 15_000_000, "hay")
    const first = good(await admin("calls.list", { worker: "needle", limit: 50 }))
    expect(first.items).toHaveLength(1)
    expect(first.next_cursor).not.toBeNull()
    expect(idsOf(await walk(admin, "calls.list", { worker: "needle", limit: 50 }))).toEqual(
      needles.map(({ id }) => id),
    )
    expect(await walk(admin, "calls.list", { worker: "nobody" })).toEqual([])

    for (const letter of "cabfed") made(await admin("tenants.create", {}, { name: letter }))
    let added = 0
    const tenants = await walk(admin, "tenants.list", { limit: 2 }, () =>
      admin("tenants.create", {}, { name: `A${added++}` }),
    )
    expect(tenants.map(({ name }) => name).filter((name: string) => name.length === 1)).toEqual([..."abcdef"])
    const tenant = tenants[0].id
    for (let n = 0; n < 7; n++)
      made(await admin("campaigns.create", {}, { tenant_id: tenant, name: `c${n}` }))
    expect(await walk(admin, "campaigns.list", { limit: 3 })).toHaveLength(7)
    made(
      await admin(
        "carriers.create",
        {},
        {
          name: "many",
          dids: Array.from({ length: 1_005 }, (_, n) => `+1858600${1000 + n}`),
        },
      ),
    )
    const [carrier] = await walk(admin, "carriers.list", { limit: 1 })
    expect([carrier.did_count, carrier.dids.length]).toEqual([1_005, 1_000])
    const dids = await walk(admin, "dids.list", { limit: 200, carrier_id: carrier.id })
    expect(new Set(dids.map(({ number }) => number)).size).toBe(1_005)
    const [{ id: campaign }] = await walk(admin, "campaigns.list")
    await database.query(
      `INSERT INTO leads (campaign_id, number, raw_number, name, status, created_at)
       SELECT $1, '+1555' || n, '', 'x', 'missed', '2026-01-01'::timestamptz + n / 3 * interval '1 microsecond' FROM generate_series(1000001, 1000050) n`,
      [campaign],
    )
    expect(new Set(idsOf(await walk(admin, "leads.list", { limit: 4 }))).size).toBe(50)
    await database.query(
      `INSERT INTO sessions (room_key, room_sid, room_name, created_at)
       SELECT 'RM_' || n, 'RM_' || n, 'r', '2026-01-01'::timestamptz + n / 3 * interval '1 microsecond' FROM generate_series(1, 50) n`,
    )
    expect(new Set(idsOf(await walk(admin, "sessions.list", { limit: 4, room_name: "r" }))).size).toBe(50)
  })
})
