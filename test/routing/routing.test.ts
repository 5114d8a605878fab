// Routing against both databases: how often it asks, how it follows them, and what it knows without them.

import { Effect, Layer, ManagedRuntime } from "effect"
import { sql } from "kysely"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { Settings } from "../../src/config.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { DatabaseUnavailable } from "../../src/database/errors.ts"
import { query } from "../../src/database/schema.ts"
import type { Knowledge } from "../../src/routing/decision.ts"
import { Routing } from "../../src/routing/routing.ts"
import { type DatabaseKind, databaseKinds } from "../support/databases.ts"
import { databaseLayer } from "../support/engines.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"

interface Line {
  /** Questions about one number. */
  asked: number
  /** Readings of many. */
  pages: number
  state: "good" | "fails" | "hangs"
  /** Holds the answer back, once the database has given it. */
  hold: ((asked: ReadonlyArray<unknown>) => Promise<void>) | undefined
}

/** Counts what routing asks, and stands for the line to the database; the caches have one of their own. */
const through = (line: Line) =>
  Layer.effect(
    Database,
    Effect.map(Database, (database) =>
      Database.of({
        ...database,
        run: (query) =>
          Effect.suspend(() => {
            const parameters = "parameters" in query ? query.parameters : []
            if (parameters.length === 1) line.asked++
            else line.pages++
            if (line.state === "hangs") return Effect.never
            if (line.state === "fails") return Effect.fail(new DatabaseUnavailable({ cause: "cut" }))
            const { hold } = line
            return hold === undefined
              ? database.run(query)
              : Effect.tap(database.run(query), () => Effect.promise(() => hold(parameters)))
          }),
      }),
    ),
  )

const open = async (kind: DatabaseKind) => {
  const runtime = ManagedRuntime.make(databaseLayer(kind))
  const database = await runtime.runPromise(Database)
  const write = (text: string) => runtime.runPromise(database.run(sql.raw(text).compile(query)))

  const start = async (line: Line) => {
    const settings = settingsOf({ DEFAULT_AGENT: "house-agent" })
    const base = Layer.merge(Layer.succeed(Database, database), Layer.succeed(Settings, settings))
    const routed = ManagedRuntime.make(
      Layer.provide(Routing.layer, through(line)).pipe(Layer.provide(Cache.layer), Layer.provide(base)),
    )
    const routing = await routed.runPromise(Routing)
    return {
      known: (number: string) => routed.runPromise(routing.known(number)),
      decide: (to: string) => routed.runPromise(routing.decide({ from: "5551234567", to, trunkId: "ST_in" })),
      stop: () => routed.dispose(),
    }
  }
  return { write, start, close: () => runtime.dispose() }
}

type Opened = Awaited<ReturnType<typeof open>>
type Started = Awaited<ReturnType<Opened["start"]>>

const makeLine = (): Line => ({ asked: 0, pages: 0, state: "good", hold: undefined })

const id = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`
const tenant = (number: number, agent: string) => `
  INSERT INTO tenants (id, name, default_agent) VALUES ('${id(number)}', 'tenant ${number}', '${agent}')`
const campaign = (number: number, tenant: number, agent: string) => `
  INSERT INTO campaigns (id, tenant_id, name, agent_name)
  VALUES ('${id(number)}', '${id(tenant)}', 'campaign ${number}', '${agent}')`
const did = (number: string, more: Record<string, string> = {}) => {
  const row = { number, raw_number: number, ...more }
  const values = Object.values(row).map((value) => `'${value}'`)
  return `INSERT INTO dids (${Object.keys(row).join(", ")}) VALUES (${values.join(", ")})`
}

const agentOf = (knowledge: Knowledge) =>
  knowledge._tag === "Known" ? knowledge.did.campaign?.agentName : knowledge._tag

describe.each(databaseKinds)("routing on %s", (kind) => {
  let database: Opened
  let routing: Started
  const line = makeLine()

  /** What it costs, in queries. */
  const cost = async (run: () => Promise<unknown>) => {
    const before = line.asked
    await run()
    return line.asked - before
  }
  /** Writes, and waits until routing has heard that something has changed. */
  const change = async (text: string) => {
    await routing.known("+15550000001")
    await database.write(text)
    await eventually(
      "the change is heard of",
      async () => (await cost(() => routing.known("+15550000001"))) > 0,
    )
  }

  beforeAll(async () => {
    database = await open(kind)
    await database.write(tenant(1, "tenant-agent"))
    await database.write(tenant(2, "second-agent"))
    await database.write(campaign(11, 1, "sales-agent"))
    routing = await database.start(line)
    // One page, with nothing in it.
    await eventually("all numbers are read", () => line.pages === 1)
    await change(did("+15557654321", { campaign_id: id(11), target: "agent" }))
  })
  afterAll(async () => {
    await routing.stop()
    await database.close()
  })
  beforeEach(() => {
    Object.assign(line, { state: "good", hold: undefined })
  })

  it("asks once for a number, however often it is called and however it is written", async () => {
    expect(await cost(() => routing.known("+15557654321"))).toBe(1)
    for (const written of ["+15557654321", "5557654321", "tel:+1-555-765-4321"]) {
      expect(await cost(() => routing.decide(written))).toBe(0)
    }
    const decision = await routing.decide("5557654321")
    expect(decision).toMatchObject({
      target: "agent",
      agent: { name: "sales-agent", why: "campaign" },
      error: undefined,
      tenantId: id(1),
      campaignId: id(11),
      dialedE164: "+15557654321",
    })
    expect(JSON.parse(decision.metadata)).toMatchObject({
      phone_number_id: decision.didId,
      tenant_id: id(1),
      campaign_id: id(11),
      from_number: "+15551234567",
      to_number: "+15557654321",
      trunk_id: "ST_in",
    })
  })

  it("asks once for all who ask at once", async () => {
    await change(did("+15550000100", { campaign_id: id(11) }))
    const answers: Array<Knowledge> = []
    const ask = async () => answers.push(await routing.known("+15550000100"))
    expect(await cost(() => Promise.all(Array.from({ length: 50 }, ask)))).toBe(1)
    expect(new Set(answers.map(agentOf))).toEqual(new Set(["sales-agent"]))
  })

  it("remembers, too, that there is no such number", async () => {
    expect(await cost(() => routing.known("+15550000200"))).toBe(1)
    expect(await cost(() => routing.known("+15550000200"))).toBe(0)
    expect(await routing.decide("+15550000200")).toMatchObject({
      error: "Phone number not found in database",
      agent: { name: "house-agent", why: "default" },
      target: "fleet",
    })
    await change(did("+15550000200"))
    expect(await routing.known("+15550000200")).toMatchObject({ _tag: "Known" })
  })

  it("asks nothing for what is no number", async () => {
    for (const text of ["", "anonymous", "911", "\u0000", "\ud800", "sip:alice@10.20.30.40"]) {
      expect(await cost(() => routing.known(text))).toBe(0)
      expect(await routing.known(text)).toEqual({ _tag: "Unknown" })
    }
  })

  it("follows every table that has a say", async () => {
    await change(did("+15550000300", { campaign_id: id(11) }))
    const decided = () => routing.decide("+15550000300")
    expect((await decided()).agent).toEqual({ name: "sales-agent", why: "campaign" })

    await change(`UPDATE campaigns SET active = false WHERE id = '${id(11)}'`)
    expect(await decided()).toMatchObject({
      agent: { name: "tenant-agent", why: "tenant" },
      campaignId: id(11),
    })
    await change(`UPDATE tenants SET default_agent = NULL WHERE id = '${id(1)}'`)
    expect(await decided()).toMatchObject({ agent: { name: "house-agent", why: "default" }, tenantId: id(1) })

    await change(`UPDATE dids SET tenant_id = '${id(2)}' WHERE number = '+15550000300'`)
    expect(await decided()).toMatchObject({ agent: { name: "second-agent", why: "tenant" }, tenantId: id(2) })

    await change("DELETE FROM dids WHERE number = '+15550000300'")
    expect((await decided()).error).toBe("Phone number not found in database")
    await change(`UPDATE tenants SET default_agent = 'tenant-agent' WHERE id = '${id(1)}'`)
    await change(`UPDATE campaigns SET active = true WHERE id = '${id(11)}'`)
  })

  it("keeps to what it knew while the database fails or hangs, and learns the change afterwards", async () => {
    await change(did("+15550000400", { campaign_id: id(11) }))
    expect(agentOf(await routing.known("+15550000400"))).toBe("sales-agent")
    await change(`UPDATE campaigns SET agent_name = 'new-agent' WHERE id = '${id(11)}'`)

    line.state = "fails"
    expect(
      await cost(async () => expect(agentOf(await routing.known("+15550000400"))).toBe("sales-agent")),
    ).toBe(1)
    line.state = "hangs"
    expect(agentOf(await routing.known("+15550000400"))).toBe("sales-agent")
    // Having waited once, nobody asks or waits again until that question is given up.
    expect(await cost(() => routing.known("+15550000400"))).toBe(0)

    line.state = "good"
    await eventually(
      "the question is asked anew",
      async () => agentOf(await routing.known("+15550000400")) === "new-agent",
    )
    await change(`UPDATE campaigns SET agent_name = 'sales-agent' WHERE id = '${id(11)}'`)
  })

  it("says so where nobody can be asked and nothing is known", async () => {
    await change(did("+15550000500"))
    line.state = "fails"
    expect(await routing.decide("+15550000500")).toMatchObject({
      error: "Database error",
      agent: { name: "house-agent", why: "default" },
      didId: undefined,
    })
    line.state = "good"
    expect(await routing.known("+15550000500")).toMatchObject({ _tag: "Known" })
  })

  it("lets no caller wait long for a database that hangs", async () => {
    await change(did("+15550000600"))
    line.state = "hangs"
    const begun = performance.now()
    expect(await routing.known("+15550000600")).toEqual({ _tag: "Unreachable" })
    const waited = performance.now() - begun
    expect(waited).toBeGreaterThan(900)
    expect(waited).toBeLessThan(10_000)
  })

  it("takes no answer that was asked for before a change for one that was asked for after it", async () => {
    const number = "+15550000700"
    await change(did(number, { campaign_id: id(11) }))
    const release = Promise.withResolvers<void>()
    const read = Promise.withResolvers<void>()
    line.hold = async ([asked]) => {
      if (asked !== number) return
      read.resolve()
      await release.promise
    }
    const before = routing.known(number)
    await read.promise
    await change(`UPDATE campaigns SET agent_name = 'later-agent' WHERE id = '${id(11)}'`)
    line.hold = undefined
    expect(agentOf(await routing.known(number))).toBe("later-agent")

    release.resolve()
    await before
    expect(await cost(async () => expect(agentOf(await routing.known(number))).toBe("later-agent"))).toBe(0)
    await change(`UPDATE campaigns SET agent_name = 'sales-agent' WHERE id = '${id(11)}'`)
  })

  it("uses an answer that came too late for its caller for the next one", async () => {
    const number = "+15550000800"
    await change(did(number, { campaign_id: id(11) }))
    const release = Promise.withResolvers<void>()
    line.hold = ([asked]) => (asked === number ? release.promise : Promise.resolve())
    expect(await routing.known(number)).toEqual({ _tag: "Unreachable" })
    release.resolve()
    expect(
      await cost(() =>
        eventually("it is known", async () => agentOf(await routing.known(number)) === "sales-agent"),
      ),
    ).toBe(0)
  })
})

describe.each(databaseKinds)("numbers that nobody has called yet, on %s", (kind) => {
  let database: Opened
  const number = (n: number) => `+1555${String(1_000_000 + n)}`

  beforeAll(async () => {
    database = await open(kind)
    await database.write(tenant(1, "tenant-agent"))
    await database.write(campaign(11, 1, "sales-agent"))
    await database.write(`
      INSERT INTO dids (number, raw_number, campaign_id)
      SELECT '+1555' || n, '' || n, '${id(11)}' FROM generate_series(1000001, 1001200) AS n`)
  })
  afterAll(() => database.close())

  it("are known when the database goes away", async () => {
    const line = makeLine()
    const routing = await database.start(line)
    await eventually("all numbers are read", () => line.pages === 3)
    await eventually("the last page is kept", async () => {
      const before = line.asked
      await routing.known(number(1200))
      return line.asked === before
    })
    line.state = "fails"
    const before = line.asked
    for (const n of [1, 500, 501, 1000, 1001, 1200]) {
      expect(agentOf(await routing.known(number(n))), number(n)).toBe("sales-agent")
    }
    expect(line.asked).toBe(before)
    expect(await routing.known(number(1201))).toEqual({ _tag: "Unreachable" })
    await routing.stop()
  })

  it("are read later where the database is away at the start", async () => {
    const line: Line = { ...makeLine(), state: "fails" }
    const routing = await database.start(line)
    await eventually("it was tried", () => line.pages > 0)
    expect(await routing.known(number(1))).toEqual({ _tag: "Unreachable" })
    line.state = "good"
    const tried = line.pages
    await eventually("all numbers are read", () => line.pages >= tried + 3)
    await routing.stop()
  })
})
