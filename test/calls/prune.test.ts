// What goes and what stays when old calls are deleted, and that nothing goes by half.

import { Effect, Layer, ManagedRuntime } from "effect"
import { type RawBuilder, sql } from "kysely"
import pg from "pg"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { Call } from "../../src/calls/call.ts"
import { callKey, meetingOf } from "../../src/calls/call.ts"
import { CallLog } from "../../src/calls/call-log.ts"
import { type Pruning, prune } from "../../src/calls/prune.ts"
import { Database } from "../../src/database/database.ts"
import type { Engine } from "../../src/database/engine.ts"
import { query } from "../../src/database/schema.ts"
import { askStatement } from "../../src/dispatch/ask-statement.ts"
import { makeCall, unknownNumber } from "../support/calls.ts"
import {
  type DatabaseKind,
  databaseKinds,
  makePostgresDatabase,
  type PostgresDatabase,
} from "../support/databases.ts"
import { makeOwnEmbedded, patientPostgres } from "../support/engines.ts"
import { eventually } from "../support/waiting.ts"

const day = 24 * 3_600_000
const now = Date.now()

interface Stage {
  readonly engine: Engine
  readonly postgres: PostgresDatabase | undefined
  readonly run: <A>(statement: RawBuilder<A>) => Promise<ReadonlyArray<A>>
  readonly log: <A, E>(use: (log: CallLog["Service"]) => Effect.Effect<A, E>) => Promise<A>
  readonly close: () => Promise<void>
}

const makeStage = async (kind: DatabaseKind): Promise<Stage> => {
  const postgres = kind === "postgres" ? await makePostgresDatabase() : undefined
  const engine = postgres === undefined ? await makeOwnEmbedded() : patientPostgres(postgres.url)
  const runtime = ManagedRuntime.make(
    Layer.provideMerge(CallLog.layer, Layer.orDie(Layer.effect(Database, Database.make(engine)))),
  )
  await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
  return {
    engine,
    postgres,
    run: async (statement) => (await engine.kysely.executeQuery(statement.compile(query))).rows,
    log: (use) => runtime.runPromise(Effect.flatMap(CallLog, use)),
    close: async () => {
      await runtime.dispose()
      await postgres?.drop()
    },
  }
}

/** A call as its row says it is; ages are in milliseconds before now. */
interface Row {
  readonly key: string
  readonly ended?: number
  readonly began?: number
  readonly created?: number
  readonly state?: string
  readonly direction?: "outbound"
  readonly watched?: true
  /** Its own where nothing is said; the empty one is none. */
  readonly room?: string
  /** The age of the room's end, or `live`; without it the room has ended with the call. */
  readonly roomEnded?: number | "live"
}

const at = (age: number | undefined) => (age === undefined ? null : now - age)
const time = (age: number) => sql`to_timestamp(${(now - age) / 1000}::float8)`

/** Writes a call with its attempt, its name, its room and who answered it, as if it had all been told then. */
const put = async ({ run }: Stage, row: Row) => {
  const { began = row.ended ?? 200 * day, key, room = `RM_${row.key}` } = row
  const ended = at(row.direction === "outbound" ? undefined : row.ended)
  const created = time(row.created ?? began)
  await run(sql`ALTER TABLE calls DISABLE TRIGGER USER`)
  await run(sql`
    WITH made AS (
      INSERT INTO calls (id, call_key, state, direction, room_key, room_sid, started_at_ms, ended_at_ms, created_at, watch_at)
      VALUES (gen_random_uuid(), ${key}::text, ${row.state ?? "accepted"}::text, ${row.direction ?? "inbound"}::text,
        ${room}::text, ${room}::text, ${at(began)}::bigint, ${ended}::bigint, ${created},
        ${row.watched === true ? time(0) : null}::timestamptz)
      RETURNING id
    )
    INSERT INTO dispatch_attempts (call_id, attempt, claim, worker) SELECT id, 1, gen_random_uuid(), 'worker-1' FROM made`)
  await run(sql`ALTER TABLE calls ENABLE TRIGGER USER`)
  await run(sql`INSERT INTO call_aliases (alias, call_key) VALUES (${key}::text, ${key}::text)`)
  if (room !== "") await putRoom({ run }, room, row.roomEnded ?? row.ended ?? "live", row.created ?? began)
}

const putRoom = async (
  { run }: Pick<Stage, "run">,
  room: string,
  ended: number | "live",
  created: number,
) => {
  await run(sql`
    INSERT INTO sessions (room_key, room_sid, room_name, started_at_ms, ended_at_ms, created_at)
    VALUES (${room}::text, ${room}::text, 'call-x', ${at(created)}::bigint,
      ${ended === "live" ? null : at(ended)}::bigint, ${time(created)})
    ON CONFLICT DO NOTHING`)
  await run(sql`
    INSERT INTO answerers (room_key, participant, identity, kind, joined_ms)
    VALUES (${room}::text, ${`PA_${room}`}::text, 'agent', 'AGENT', 1) ON CONFLICT DO NOTHING`)
}

/** What is there of each call and room: those without one of their rows are named so. */
const left = async ({ run }: Stage) => {
  const calls = await run(sql<{ key: string; whole: boolean }>`
    SELECT c.call_key AS key, EXISTS (SELECT FROM dispatch_attempts d WHERE d.call_id = c.id)
      AND EXISTS (SELECT FROM call_aliases a WHERE a.call_key = c.call_key)
      AND (c.room_key = '' OR EXISTS (SELECT FROM sessions s WHERE s.room_key = c.room_key)
        AND EXISTS (SELECT FROM answerers a WHERE a.room_key = c.room_key)) AS whole
    FROM calls c ORDER BY c.call_key`)
  const rooms = await run(sql<{ key: string }>`
    SELECT room_key AS key FROM sessions s UNION SELECT room_key FROM answerers ORDER BY key`)
  const names = await run(sql<{ key: string }>`SELECT alias AS key FROM call_aliases ORDER BY alias`)
  const attempts = await run(
    sql<{ attempts: number }>`SELECT count(*)::int AS attempts FROM dispatch_attempts`,
  )
  return {
    calls: calls.map(({ key, whole }) => (whole ? key : `half of ${key}`)),
    rooms: rooms.map(({ key }) => key),
    names: names.map(({ key }) => key),
    attempts: attempts[0]?.attempts,
  }
}

const usual: Pruning = { ageMs: 90 * day, most: 1_000, dryRun: false }
const pruneNow = ({ engine }: Stage, pruning: Partial<Pruning> = {}) =>
  Effect.runPromise(prune(engine, { ...usual, ...pruning }, () => {}))

const going: ReadonlyArray<readonly [string, Row]> = [
  ["one that was answered", { key: "answered", ended: 91 * day }],
  ["one whose caller hung up while it waited", { key: "gave-up", ended: 91 * day, state: "waiting" }],
  ["one of which nobody knows who has it", { key: "nobody-knows", ended: 91 * day, state: "uncertain" }],
  ["somebody we called", { key: "outbound", ended: 95 * day, direction: "outbound" }],
  ["one that was asked about and never came", { key: "asked", began: 92 * day, room: "" }],
  ["the one of two in a room", { key: "two-1", ended: 120 * day, room: "RM_two", roomEnded: 95 * day }],
  ["the other one", { key: "two-2", ended: 95 * day, room: "RM_two", roomEnded: 95 * day }],
]

const staying: ReadonlyArray<readonly [string, Row]> = [
  ["one that ended lately", { key: "lately", ended: 89 * day, began: 100 * day }],
  ["one that has not ended", { key: "live" }],
  ["one that is being handed over", { key: "handing", ended: 100 * day, state: "handing" }],
  ["one that waits", { key: "waiting", state: "waiting" }],
  ["one that is watched", { key: "watched", ended: 100 * day, watched: true }],
  ["one that was told just now", { key: "told-late", ended: 100 * day, created: 0 }],
  ["one whose room is open", { key: "open", ended: 100 * day, roomEnded: "live" }],
  [
    "one that shares its room with a later one",
    { key: "shared", ended: 100 * day, room: "RM_with", roomEnded: 91 * day },
  ],
  ["that one", { key: "sharing", ended: 91 * day, room: "RM_with", watched: true }],
  ["one that was asked about and may still come", { key: "asked-lately", began: 90.5 * day, room: "" }],
]

// ---- Calls as they are told, whose names are made by the service

interface Told {
  readonly id: string
  readonly full?: string
  readonly caller?: string
  readonly room: string
}

const usualCaller = "+15551234567"
const theirKey = "their-key"

/** Somebody asks about a call by an id of their own, and knows none of LiveKit's. */
const askAbout = async ({ engine }: Stage, { caller = usualCaller, id, room }: Told) => {
  const askedId = `${theirKey}${id.startsWith("SCL_") ? "" : id}`
  const meeting = meetingOf(room, caller)
  const about = { askedId, key: askedId, roomName: room, from: caller, to: "+1888", trunkId: "ST", meeting }
  const ask = { ...about, decision: unknownNumber, answerWithinMs: 20_000 }
  await engine.kysely.executeQuery(askStatement(ask, crypto.randomUUID(), crypto.randomUUID(), "{}") as never)
}

const callOf = ({ caller = usualCaller, full = "", id, room }: Told): Call => {
  const { leg } = makeCall(id)
  const attributes = new Map([...leg.participant.attributes, ["sip.callIDFull", full]])
  const told = {
    event: { ...leg.event, room: { ...leg.event.room, sid: `RM_${room}_${id}`.slice(0, 60), name: room } },
    participant: { ...leg.participant, attributes },
  }
  return { ...makeCall(id), key: callKey(told), leg: told, callerNumber: caller }
}

/** Tells of the call's join and leave, and makes all that long ago. */
const tellOld = async (stage: Stage, call: Call) => {
  await stage.log((log) => log.recordJoin(call))
  await stage.log((log) => log.recordLeave(call, { aborted: false }))
  await stage.run(
    sql`UPDATE calls SET created_at = ${time(91 * day)} WHERE room_name = ${call.leg.event.room.name}`,
  )
  await stage.run(sql`UPDATE sessions SET ended_at_ms = 5000 WHERE room_name = ${call.leg.event.room.name}`)
}

const namesIn = async ({ run }: Stage, { leg }: Call) => {
  const { name } = leg.event.room
  const rows = await run(
    sql<{ key: string }>`SELECT call_key AS key FROM calls WHERE room_name = ${name}::text`,
  )
  const keys = rows.map(({ key }) => key)
  const names = () =>
    run(
      sql<{
        alias: string
      }>`SELECT alias FROM call_aliases WHERE call_key = ANY (${keys}::text[]) ORDER BY alias`,
    )
  return { keys, names: async () => (await names()).map(({ alias }) => alias) }
}

const named: ReadonlyArray<readonly [string, Told]> = [
  ["LiveKit's ids", { id: "SCL_usual", full: "abc@10.0.0.9", room: "call-usual" }],
  ["ids that are hashed", { id: `SCL_${"x".repeat(300)}`, full: "ü@10.0.0.9", room: "call-hashed" }],
  ["no id at all", { id: "", room: "call-no-id" }],
  [
    "a hidden caller, and a room in another script",
    { id: "SCL_hidden", caller: "anonymous", room: "call-ж😀" },
  ],
]

const underWay = `
  SELECT FROM pg_stat_activity
  WHERE datname = current_database() AND query LIKE '%looked AS%calls%' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL`

describe.each(databaseKinds)("on %s", (kind) => {
  let stage: Stage
  beforeAll(async () => {
    stage = await makeStage(kind)
  })
  afterAll(() => stage?.close())

  describe("of calls of all kinds", () => {
    let after: Awaited<ReturnType<typeof left>>
    let counts: ReadonlyArray<{ readonly calls: number; readonly rooms: number }>
    const goes = going.map(([, { key }]) => key)
    const stays = staying.map(([, { key }]) => key)

    beforeAll(async () => {
      for (const [, row] of [...going, ...staying]) await put(stage, row)
      await putRoom(stage, "RM_empty-old", 91 * day, 91 * day)
      await putRoom(stage, "RM_empty-lately", 89 * day, 91 * day)
      await putRoom(stage, "RM_empty-live", "live", 91 * day)
      const before = await left(stage)
      const dry = await pruneNow(stage, { dryRun: true })
      expect(await left(stage)).toEqual(before)
      // Small, so that what stays is passed over from one batch to the next.
      counts = [dry, await pruneNow(stage, { most: 2 }), await pruneNow(stage)]
      after = await left(stage)
    })

    it.each(going)("%s goes, with its room", (_, { key, room }) => {
      expect(after.calls.filter((one) => one === key || one === `half of ${key}`)).toEqual([])
      expect(after.rooms).not.toContain(room || `RM_${key}`)
    })

    it.each(staying)("%s stays, with all that is its", (_, { key }) => {
      expect(after.calls).toContain(key)
    })

    it("nothing else is left of what went", () => {
      const all = { calls: stays.toSorted(), names: stays.toSorted(), attempts: stays.length }
      expect(after).toMatchObject(all)
    })

    it("a room that was no call's goes when it has ended, too", () => {
      const empty = after.rooms.filter((room) => room.startsWith("RM_empty"))
      expect(empty).toEqual(["RM_empty-lately", "RM_empty-live"])
    })

    it("a dry run counts what then goes, and the second time nothing does", () => {
      // One has no room, two share theirs, and one room is nobody's.
      const gone = { calls: goes.length, rooms: goes.length - 2 + 1 }
      expect(counts).toMatchObject([gone, gone, { calls: 0, rooms: 0 }])
    })
  })

  describe("all names of a call go with it:", () => {
    it.each(named)("%s", async (_, told) => {
      const call = callOf(told)
      await tellOld(stage, call)
      const { keys, names } = await namesIn(stage, call)
      expect(keys).toEqual([call.key])
      expect(await names()).toHaveLength(1)
      await pruneNow(stage)
      expect((await namesIn(stage, call)).keys).toEqual([])
      expect(await names()).toEqual([])
    })

    it.each(named)("%s, and those of whoever asked about it", async (_, told) => {
      const call = callOf(told)
      await askAbout(stage, told)
      await tellOld(stage, call)
      const { keys, names } = await namesIn(stage, call)
      expect(keys).toEqual([theirKey])
      const meeting = meetingOf(told.room, told.caller ?? usualCaller)
      expect(await names()).toEqual(expect.arrayContaining([theirKey, call.key, meeting]))
      await pruneNow(stage)
      expect((await namesIn(stage, call)).keys).toEqual([])
      expect(await names()).toEqual([])
    })

    it("but the room with the caller, once it means another call of theirs", async () => {
      const room = "call-again"
      await askAbout(stage, { id: "", room })
      await tellOld(stage, callOf({ id: "SCL_first", room }))
      await askAbout(stage, { id: "second", room })
      await pruneNow(stage)
      const { keys, names } = await namesIn(stage, callOf({ id: "SCL_second", room }))
      expect(keys).toEqual([`${theirKey}second`])
      expect(await names()).toContain(meetingOf(room, usualCaller))
    })
  })

  it("broken off, it leaves every call whole or not at all, and goes on where it is begun again", async () => {
    const keys = Array.from({ length: 6 }, (_, index) => `broken-off-${index}`)
    // In one room, which stays as long as there is one of them.
    for (const key of keys) await put(stage, { key, ended: 100 * day, room: "RM_broken-off" })
    const mine = async () => (await left(stage)).calls.filter((key) => key.includes("broken-off"))
    const stop = new AbortController()
    const pruning = prune(stage.engine, { ...usual, most: 1 }, ({ calls }) => {
      if (calls >= 2) stop.abort()
    })
    await expect(Effect.runPromise(pruning, { signal: stop.signal })).rejects.toThrow()
    const there = await mine()
    expect(there.length).toBeGreaterThan(0)
    expect(there.length).toBeLessThan(keys.length)
    expect(keys).toEqual(expect.arrayContaining(there))
    await pruneNow(stage)
    expect(await mine()).toEqual([])
  })

  it.runIf(kind === "postgres")(
    "waits for whoever writes to an old room, and they do not wait for it",
    async () => {
      await put(stage, { key: "held", ended: 100 * day })
      const postgres = stage.postgres!
      const client = new pg.Client({ connectionString: postgres.url })
      await client.connect()
      let pruning: ReturnType<typeof pruneNow>
      try {
        // In the order of an event: the room first, then its calls.
        await client.query(
          "BEGIN; SET LOCAL deadlock_timeout = '1min'; SELECT FROM sessions WHERE room_key = 'RM_held' FOR UPDATE",
        )
        pruning = pruneNow(stage)
        await eventually("it has come to it", async () => (await postgres.query(underWay)).length > 0)
        await client.query("SELECT FROM calls WHERE call_key = 'held' FOR UPDATE")
        await client.query("COMMIT")
      } finally {
        await client.end()
      }
      expect((await pruning).calls).toBeGreaterThan(0)
      expect((await left(stage)).calls.join()).not.toContain("held")
    },
  )
})
