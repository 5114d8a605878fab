// One call told by several: whoever asks for an agent, LiveKit's events in any order, replicas at the same moment.

import { Effect, Layer, Logger, ManagedRuntime } from "effect"
import { HttpServerResponse } from "effect/http"
import fc from "fast-check"
import { type RawBuilder, sql } from "kysely"
import pg from "pg"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { CallLog } from "../../src/calls/call-log.ts"
import { TrunkDirectory } from "../../src/carriers/trunk-directory.ts"
import { signBody } from "../../src/commands/signing.ts"
import { Settings } from "../../src/config.ts"
import { Backlog } from "../../src/database/backlog.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { ask } from "../../src/dispatch/ask.ts"
import { catchUpLayer } from "../../src/dispatch/catch-up.ts"
import { InFlight } from "../../src/dispatch/in-flight.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { dispatch, receive } from "../../src/dispatch/pipeline.ts"
import { Fleet } from "../../src/fleet/fleet.ts"
import { WorkerClient } from "../../src/fleet/worker-client.ts"
import { answer } from "../../src/http/answers.ts"
import { LiveKit } from "../../src/livekit/livekit.ts"
import { Routing } from "../../src/routing/routing.ts"
import { Sessions } from "../../src/sessions/sessions.ts"
import { decodeEvent } from "../../src/webhook/event.ts"
import { Keys } from "../../src/webhook/keys.ts"
import {
  type DatabaseKind,
  databaseKinds,
  makePostgresDatabase,
  type PostgresDatabase,
  withoutCalls,
} from "../support/databases.ts"
import { around, gaveWay, makeOwnEmbedded, patience, patientPostgres } from "../support/engines.ts"
import { joinEvent } from "../support/events.ts"
import { cases } from "../support/properties.ts"
import { apiKey, apiSecret, coreSecret, toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

// --- A call, and what is told of it.

/** Milliseconds since 1970, a whole second: when the caller of a scene joins. Whoever joined hours ago is not asked for. */
const T = Math.floor(Date.now() / 1000) * 1000

const callerNumber = "+15551234567"
const fleetNumber = "+18885550100"
const agentNumber = "+18885550101"
/** The same campaign's, at first. */
const movingNumber = "+18885550102"
const campaignAgent = "sales-agent"

interface Scene {
  readonly id: string
  readonly full: string
  readonly caller: string
  readonly dialed: string
  readonly room: { readonly sid: string; readonly name: string }
}

let scenes = 0

/** A call like no other one, but for what is given. */
const makeScene = (given: Partial<Scene> = {}): Scene => {
  const own = ++scenes
  return {
    id: `SCL_${own}`,
    full: `${own}-1@127.0.0.1`,
    caller: callerNumber,
    dialed: fleetNumber,
    room: { sid: `RM_${own}`, name: `call-_${callerNumber}_${own}` },
    ...given,
  }
}

interface Someone {
  readonly sid: string
  readonly identity: string
  readonly kind: string | undefined
  readonly joined: number
  readonly attributes?: Record<string, string>
  readonly disconnectReason?: string
}

const secondsOf = (ms: number) => String(Math.floor(ms / 1000))

const eventOf = (scene: Scene, name: string, at: number, someone?: Someone) => {
  const { joined = 0, ...participant } = someone ?? {}
  const body = joinEvent({
    room: { ...scene.room, creationTime: secondsOf(T), creationTimeMs: String(T) },
    participant: {
      attributes: {},
      ...participant,
      joinedAt: secondsOf(joined),
      joinedAtMs: String(joined),
    },
    event: { event: name, createdAt: secondsOf(at) },
  })
  return someone === undefined ? { ...body, participant: undefined } : body
}

const callerOf = (scene: Scene, status: string, joined: number, more: Partial<Someone> = {}): Someone => ({
  sid: `PA_${scene.id}_${joined}`,
  identity: `sip_${scene.caller}`,
  kind: "SIP",
  joined,
  attributes: {
    "sip.callID": scene.id,
    "sip.callIDFull": scene.full,
    "sip.trunkID": "ST_in",
    "sip.ruleID": "SDR_1",
    "sip.phoneNumber": scene.caller,
    "sip.trunkPhoneNumber": scene.dialed,
    "sip.callStatus": status,
  },
  ...more,
})

/** As it is where no dispatch rule has made the room. */
const withoutRule = (someone: Someone): Someone => {
  const { "sip.ruleID": _, ...attributes } = someone.attributes ?? {}
  return { ...someone, attributes }
}

const joined = (scene: Scene, at = T) =>
  eventOf(scene, "participant_joined", at, callerOf(scene, "ringing", at))
/** The leave of the join at that time. */
const left = (scene: Scene, at: number, join = T) =>
  eventOf(
    scene,
    "participant_left",
    at,
    callerOf(scene, "hangup", join, { disconnectReason: "CLIENT_INITIATED" }),
  )
const aborted = (scene: Scene) =>
  eventOf(scene, "participant_connection_aborted", T + 1_000, callerOf(scene, "ringing", T))
const roomStarted = (scene: Scene, at = T) => eventOf(scene, "room_started", at)
const roomFinished = (scene: Scene, at: number) => eventOf(scene, "room_finished", at)

const someoneElse = (scene: Scene, kind: string | undefined, at: number, name = "someone"): Someone => ({
  sid: `PA_${scene.id}_${name}`,
  identity: name,
  kind,
  joined: at,
})
const agentJoined = (scene: Scene, at: number, name = "agent-1") =>
  eventOf(scene, "participant_joined", at, someoneElse(scene, "AGENT", at, name))
const agentLeft = (scene: Scene, at: number, join: number, name = "agent-1") =>
  eventOf(scene, "participant_left", at, someoneElse(scene, "AGENT", join, name))

const agentJoinedAt = (at: number) => (scene: Scene) => agentJoined(scene, at)
const agentLeftAt = (at: number, join: number) => (scene: Scene) => agentLeft(scene, at, join)

/** Somebody we called into the caller's room. */
const legOf = (scene: Scene, status: string, at: number): Someone => ({
  ...someoneElse(scene, "SIP", at, "callee"),
  attributes: {
    "sip.callID": `${scene.id}_leg`,
    "sip.trunkID": "ST_out",
    "sip.phoneNumber": "+15557770001",
    "sip.trunkPhoneNumber": scene.dialed,
    "sip.callStatus": status,
  },
})

const questionOf = (scene: Scene, callId: string, more: Record<string, string> = {}) => ({
  call_id: callId,
  // Without its plus: whoever asks may write the number otherwise than LiveKit does.
  from_number: scene.caller.slice(1),
  to_number: scene.dialed,
  ...more,
})

const variants: ReadonlyArray<readonly [string, (scene: Scene) => Record<string, string>]> = [
  ["sip.callID", (scene) => questionOf(scene, scene.id)],
  ["sip.callIDFull", (scene) => questionOf(scene, scene.full)],
  [
    "a foreign id, in the same room with the same caller",
    (scene) => questionOf(scene, `foreign-${scene.id}`, { room_name: scene.room.name }),
  ],
]

// --- Who is told.

type Row = Record<string, unknown>
type Told = "dispatch" | "receive"

interface Answer {
  /** What became of it, by its name. */
  readonly end: string
  readonly status: number
  readonly text: string
}

const recordedOnly: Answer = { end: "Recorded", status: 200, text: "" }

const toAnswer = async (end: Parameters<typeof answer>[0], replayed = false): Promise<Answer> => {
  const response = HttpServerResponse.toWeb(answer(end, replayed))
  return { end: end._tag, status: response.status, text: await response.text() }
}

const makeStage = async (kind: DatabaseKind) => {
  const worker = await startWorker()
  // Whatever comes between two probes is for this one worker.
  worker.behaviour.health = { status: 200, body: { status: "ok", active_calls: 0, max_calls: 1_000_000 } }
  const settings = settingsOf({
    LIVEKIT_API_KEY: apiKey,
    LIVEKIT_API_SECRET: apiSecret,
    CXB_CORE_SECRET: coreSecret,
    CORE_FLEET: worker.url,
  })
  const dispatched: Array<{ readonly room: string; readonly agent: string }> = []
  const caller = {
    sid: "PA",
    identity: `sip_${callerNumber}`,
    kind: "SIP",
    joinedAtMs: T,
    attributes: new Map<string, string>(),
  }
  // A LiveKit where the caller is in every room.
  const livekit = Layer.succeed(
    LiveKit,
    LiveKit.of({
      configured: true,
      participants: () => Effect.succeed([caller]),
      rooms: () => Effect.succeed([]),
      dispatches: () => Effect.succeed([]),
      createDispatch: (room, agent) =>
        Effect.sync(() => {
          dispatched.push({ room, agent })
          return { id: "AD_1", agentName: agent }
        }),
    }),
  )

  const postgres = kind === "postgres" ? await makePostgresDatabase() : undefined
  const failures: Array<string> = []
  const makeReplica = async () => {
    const engine = postgres === undefined ? await makeOwnEmbedded() : patientPostgres(postgres.url)
    const watched = Layer.effect(
      Database,
      Effect.map(Database.make(engine), (database) =>
        around(database, (run, statement) =>
          Effect.tapError(run, (error) =>
            Effect.sync(() => gaveWay(error, statement) || failures.push(error.message)),
          ),
        ),
      ),
    ).pipe(Layer.orDie)
    const shared: Array<string> = []
    const inFlight = Layer.effect(
      InFlight,
      Effect.map(InFlight, (real) =>
        InFlight.of({
          ...real,
          share: (key, run) => {
            shared.push(key)
            return real.share(key, run)
          },
        }),
      ),
    ).pipe(Layer.provide(InFlight.layer))
    const runtime = ManagedRuntime.make(
      catchUpLayer.pipe(
        Layer.provideMerge(
          Layer.mergeAll(
            Layer.mergeAll(Ledger.layer, CallLog.layer, Sessions.layer, Keys.layer, inFlight),
            Layer.mergeAll(Fleet.layer, TrunkDirectory.layer, Routing.layer, WorkerClient.layer, livekit),
          ),
        ),
        Layer.provideMerge(Layer.provide(Backlog.layer, patience)),
        Layer.provide(Cache.layer),
        Layer.provideMerge(watched),
        Layer.provideMerge(Layer.succeed(Settings, settings)),
        Layer.provideMerge(Logger.layer([])),
      ),
    )
    await eventually("the worker is up", async () => {
      const fleet = await runtime.runPromise(Fleet)
      return (await runtime.runPromise(fleet.view)).some(({ up }) => up)
    })
    return {
      runtime,
      /** The key of each delivery that was to hand a call over. */
      shared,
      /** Delivers the body to the first URL, or to one of the other two, which record alike. */
      tell: async (body: unknown, to: Told = "dispatch"): Promise<Answer> => {
        const bytes = toBytes(body)
        const request = { authorization: await signBody(bytes, apiKey, apiSecret), body: bytes }
        if (to === "receive") {
          return runtime.runPromise(
            Effect.match(receive(request), {
              onSuccess: () => recordedOnly,
              onFailure: ({ _tag }) => ({ end: _tag, status: 500, text: "" }),
            }),
          )
        }
        const told = await runtime.runPromise(
          Effect.match(dispatch(request), {
            onSuccess: ({ end, replayed }) => ({ end, replayed }),
            onFailure: (end) => ({ end, replayed: false }),
          }),
        )
        return toAnswer(told.end, told.replayed)
      },
      ask: (question: unknown) => runtime.runPromise(ask(toBytes(question))),
    }
  }
  const first = await makeReplica()
  // The embedded database is for one process.
  const second = postgres === undefined ? first : await makeReplica()
  const replicas = new Set([first, second])

  const rows = (statement: RawBuilder<Row>): Promise<ReadonlyArray<Row>> =>
    first.runtime.runPromise(Effect.flatMap(Database, ({ run }) => run(statement.compile(query))))

  await rows(sql`
    WITH tenant AS (INSERT INTO tenants (name) VALUES ('one') RETURNING id), campaign AS (
      INSERT INTO campaigns (tenant_id, name, agent_name) SELECT id, 'sales', ${campaignAgent} FROM tenant RETURNING id
    )
    INSERT INTO dids (number, raw_number, campaign_id, target)
    SELECT n, n, id, t FROM campaign, (VALUES (${fleetNumber}, 'fleet'), (${agentNumber}, 'agent'), (${movingNumber}, 'fleet')) AS d (n, t)`)

  const seen: { from: number } = { from: 0 }
  return {
    first,
    second,
    postgres,
    worker,
    /** What the database has refused, or could not do. */
    failures,
    /** Which agents LiveKit was told to dispatch. */
    dispatched,
    /** Which calls have reached the worker. */
    relayed: () => worker.seen.slice(seen.from).map(({ body }) => body["call_id"]),
    rows,
    /** The call log, the call that began first at the top. */
    calls: () =>
      rows(sql`
        SELECT call_key, state, status, direction, target, agent_name, sip_call_id, asked_id, room_key, room_sid,
          caller_first_joined_ms::float8, started_at_ms::float8, answered_at_ms::float8, ended_at_ms::float8,
          ring_ms::float8, duration_ms::float8, hung_up_by, end_reason, answerers, lead_id, lead_created
        FROM calls ORDER BY started_at_ms, call_key`),
    leads: () =>
      rows(sql`
        SELECT id, number, name, status, (extract(epoch FROM last_call_at) * 1000)::float8 AS last_call_ms
        FROM leads ORDER BY number, created_at`),
    sessions: async () =>
      Object.fromEntries(
        (await rows(sql`SELECT room_key, status FROM sessions`)).map((row) => [
          row["room_key"],
          row["status"],
        ]),
      ),
    /** Until nothing is under way, and no write waits that a slow database has put off. */
    settled: async () => {
      for (const { runtime } of replicas) {
        const backlog = await runtime.runPromise(Backlog)
        await eventually("every fact is written", () => {
          const { claims, stories } = backlog.size()
          return claims + stories === 0
        })
        await runtime.runPromise(Effect.flatMap(InFlight, ({ idle }) => idle))
      }
    },
    clear: async () => {
      await rows(withoutCalls)
      seen.from = worker.seen.length
      dispatched.length = 0
      failures.length = 0
    },
    close: async () => {
      for (const { runtime } of replicas) await runtime.dispose()
      await worker.stop()
      await postgres?.drop()
    },
  }
}

type Stage = Awaited<ReturnType<typeof makeStage>>

/** Starts them at the same moment, the one that is named first now and then second. */
const atOnce = <A>(round: number, these: ReadonlyArray<() => Promise<A>>): Promise<ReadonlyArray<A>> =>
  Promise.all((round % 2 === 0 ? these : these.toReversed()).map((start) => start()))

/** Holds the lock under which what happens in the scene's room is written down. */
const holdRoom = async (postgres: PostgresDatabase, { room }: Scene) => {
  const client = new pg.Client({ connectionString: postgres.url })
  client.on("error", () => {})
  await client.connect()
  await client.query("SELECT pg_advisory_lock(1398228043, hashtext($1))", [room.sid])
  return {
    waiting: (howMany: number) =>
      eventually(`${howMany} wait for the room`, async () => {
        const [row] = await postgres.query<{ waiting: number }>(
          `SELECT count(*)::integer AS waiting FROM pg_locks l JOIN pg_database d ON d.oid = l.database
           WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted`,
        )
        return (row?.waiting ?? 0) >= howMany
      }),
    release: () => client.end(),
  }
}

describe.each(databaseKinds)("on %s,", (kind) => {
  let stage: Stage
  const tell = (body: unknown, to?: Told) => stage.first.tell(body, to)
  /** One after the other. */
  const tellAll = async (...bodies: ReadonlyArray<unknown>) => {
    for (const body of bodies) await tell(body)
  }
  const oneCall = async () => {
    const calls = await stage.calls()
    expect(calls).toHaveLength(1)
    return calls[0]!
  }
  const restart = async () => {
    await stage.settled()
    await stage.clear()
  }

  beforeAll(async () => {
    stage = await makeStage(kind)
  })
  afterAll(() => stage?.close())
  beforeEach(restart)

  describe.each(variants)("a call that was asked for by %s", (_, question) => {
    it("is nobody else's, and one call, whatever LiveKit tells of it and when", async () => {
      const events = (scene: Scene) => [
        roomStarted(scene),
        joined(scene),
        agentJoined(scene, T + 2_500),
        left(scene, T + 62_000),
        agentLeft(scene, T + 64_000, T + 2_500),
        roomFinished(scene, T + 84_000),
      ]
      const twice = [0, 1, 2, 3, 4, 5].flatMap((index) => [
        { index, to: "dispatch" as const },
        { index, to: "receive" as const },
      ])
      const order = fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }).chain((both) =>
        fc.shuffledSubarray(
          twice.map((each) => (both[each.index] ? { ...each, to: "dispatch" as const } : each)),
          { minLength: twice.length },
        ),
      )
      await fc.assert(
        fc.asyncProperty(order, async (deliveries) => {
          await restart()
          const scene = makeScene()
          const asked = await stage.first.ask(question(scene))
          expect(asked).toMatchObject({ agent_name: campaignAgent })
          expect(asked.error).toBeUndefined()
          for (const { index, to } of deliveries) {
            const told = await tell(events(scene)[index], to)
            if (index !== 1 || to === "receive") expect(["Ignored", "Recorded"]).toContain(told.end)
            else {
              expect([told.end, told.status]).toEqual(["AlreadyAccepted", 200])
              expect(JSON.parse(told.text)).toMatchObject({ ok: true, agent_name: campaignAgent })
            }
          }
          expect(stage.relayed()).toEqual([])
          expect(stage.dispatched).toEqual([])
          expect(await oneCall()).toMatchObject({
            state: "accepted",
            status: "completed",
            direction: "inbound",
            target: "agent",
            agent_name: campaignAgent,
            sip_call_id: scene.id,
            asked_id: question(scene)["call_id"],
            room_key: scene.room.sid,
            started_at_ms: T,
            answered_at_ms: T + 2_500,
            ended_at_ms: T + 62_000,
            ring_ms: 2_500,
            duration_ms: 59_500,
            hung_up_by: "caller",
            end_reason: "hung up",
            answerers: 1,
            lead_created: true,
          })
          const leads = await stage.leads()
          expect(leads).toMatchObject([
            {
              number: callerNumber,
              name: `Inbound Caller ${callerNumber}`,
              status: "completed",
              last_call_ms: T,
            },
          ])
          expect(await stage.sessions()).toEqual({ [scene.room.sid]: "stopped" })
          expect(stage.failures).toEqual([])
        }),
        { ...cases, numRuns: 25 },
      )
    }, 120_000)

    it("is given to the same agent where the question is repeated", async () => {
      const scene = makeScene()
      const first = await stage.first.ask(question(scene))
      await tell(joined(scene))
      expect(await stage.first.ask(question(scene))).toEqual(first)
      await oneCall()
    })

    it("is not given away where a worker has it already", async () => {
      const scene = makeScene()
      expect((await tell(joined(scene))).end).toBe("HandedOver")
      const asked = await stage.first.ask(question(scene))
      expect(asked).toMatchObject({ agent_name: "", error: "Call already taken" })
      expect((await tell(joined(scene))).end).toBe("AlreadyAccepted")
      expect(stage.relayed()).toEqual([scene.id])
      expect(await oneCall()).toMatchObject({ state: "accepted", target: "fleet", agent_name: null })
    })

    it("is found in a room that has been there for weeks", async () => {
      const scene = makeScene()
      await tell(roomStarted(scene))
      await stage.rows(sql`UPDATE sessions SET created_at = created_at - interval '30 days'`)
      await tell(joined(scene))
      expect(await stage.first.ask(question(scene))).toMatchObject({ error: "Call already taken" })
      await oneCall()
    })

    it("has the agent that was dispatched before, where the number is an agent's", async () => {
      const scene = makeScene({ dialed: agentNumber })
      const told = await tell(joined(scene))
      expect([told.end, JSON.parse(told.text)]).toEqual([
        "HandedOver",
        { ok: true, agent_name: campaignAgent, dispatch_id: "AD_1" },
      ])
      const asked = await stage.first.ask(question(scene))
      expect(asked).toMatchObject({ agent_name: campaignAgent })
      expect(asked.error).toBeUndefined()
      expect(stage.dispatched).toEqual([{ room: scene.room.name, agent: campaignAgent }])
      expect(stage.relayed()).toEqual([])
      await oneCall()
    })

    it("is not given to anybody where the caller has left", async () => {
      const scene = makeScene()
      await tell(left(scene, T + 3_000))
      expect(await stage.first.ask(question(scene))).toMatchObject({ agent_name: "" })
      expect((await tell(joined(scene))).end).toBe("CallerLeft")
      expect(await oneCall()).toMatchObject({ status: "missed" })
    })

    it("is given out once where both come at the same moment", async () => {
      const rounds = 50
      for (let round = 0; round < rounds; round++) {
        const scene = makeScene()
        let agent: string | undefined
        const ends: Array<string> = []
        await atOnce(round, [
          async () => void ends.push((await stage.first.tell(joined(scene))).end),
          async () => {
            agent = (await stage.second.ask(question(scene))).agent_name
          },
        ])
        const relays = stage.relayed().filter((id) => id === scene.id).length
        expect([relays, agent, ends]).toEqual(
          relays === 0 ? [0, campaignAgent, ["AlreadyAccepted"]] : [1, "", ["HandedOver"]],
        )
        // And so it stays.
        expect((await stage.second.ask(question(scene))).agent_name).toBe(agent)
        expect((await stage.second.tell(joined(scene))).end).toBe("AlreadyAccepted")
      }
      expect(await stage.calls()).toHaveLength(rounds)
      expect(stage.failures).toEqual([])
    }, 300_000)

    it("has one agent where both come at the same moment and the number is an agent's", async () => {
      const rounds = 20
      for (let round = 0; round < rounds; round++) {
        const scene = makeScene({ dialed: agentNumber })
        const ends: Array<string> = []
        await atOnce(round, [
          async () => void ends.push((await stage.first.tell(joined(scene))).end),
          async () => expect((await stage.second.ask(question(scene))).agent_name).toBe(campaignAgent),
          async () => void ends.push((await stage.second.tell(joined(scene))).end),
        ])
        const created = stage.dispatched.filter(({ room }) => room === scene.room.name).length
        expect(created).toBe(ends.filter((end) => end === "HandedOver").length)
        expect(created).toBeLessThanOrEqual(1)
      }
      expect(stage.relayed()).toEqual([])
      expect(await stage.calls()).toHaveLength(rounds)
      expect(stage.failures).toEqual([])
    }, 300_000)
  })

  describe("kept apart are", () => {
    const aged = () => stage.rows(sql`UPDATE calls SET created_at = created_at - interval '10 minutes'`)
    const foreign = (scene: Scene, id: string) => questionOf(scene, id, { room_name: scene.room.name })

    it("two callers in one room", async () => {
      const one = makeScene()
      const other = makeScene({ room: one.room, caller: "+15559876543" })
      await tellAll(joined(one), joined(other, T + 1_000))
      expect(stage.relayed()).toEqual([one.id, other.id])
      expect((await stage.calls()).map((call) => call["sip_call_id"])).toEqual([one.id, other.id])
      expect(await stage.leads()).toHaveLength(2)
    })

    it("two callers in one room, one of whom was asked for", async () => {
      const one = makeScene()
      const other = makeScene({ room: one.room, caller: "+15559876543" })
      expect((await stage.first.ask(foreign(one, "foreign"))).agent_name).toBe(campaignAgent)
      await tellAll(joined(other, T + 1_000), joined(one))
      expect(stage.relayed()).toEqual([other.id])
      expect(await stage.calls()).toMatchObject([
        { sip_call_id: one.id, asked_id: "foreign", target: "agent" },
        { sip_call_id: other.id, asked_id: null, target: "fleet" },
      ])
    })

    it("two questions about two callers in one room", async () => {
      const one = makeScene()
      const other = makeScene({ room: one.room, caller: "+15559876543" })
      for (const scene of [one, other]) {
        expect((await stage.first.ask(foreign(scene, `of ${scene.id}`))).agent_name).toBe(campaignAgent)
      }
      await tellAll(joined(one), joined(other))
      expect(stage.relayed()).toEqual([])
      expect(await stage.calls()).toHaveLength(2)
    })

    it("one caller's calls to a room of the same name, long after one another", async () => {
      const before = makeScene()
      await tell(joined(before))
      await aged()
      const now = makeScene({ room: { sid: "RM_again", name: before.room.name } })
      expect((await stage.first.ask(foreign(now, "now"))).agent_name).toBe(campaignAgent)
      expect((await tell(joined(now, T + 1_000))).end).toBe("AlreadyAccepted")
      expect(stage.relayed()).toEqual([before.id])
      expect(await stage.calls()).toMatchObject([
        { sip_call_id: before.id, asked_id: null },
        { sip_call_id: now.id, asked_id: "now" },
      ])
    })

    it("a question nobody came for, and the same caller's join long after", async () => {
      const scene = makeScene()
      await stage.first.ask(foreign(scene, "long ago"))
      await aged()
      expect((await tell(joined(scene))).end).toBe("HandedOver")
      expect(await stage.calls()).toHaveLength(2)
    })

    it("two questions long after one another, each with its join", async () => {
      const before = makeScene()
      await stage.first.ask(foreign(before, "before"))
      await tell(joined(before))
      await aged()
      const now = makeScene({ room: { sid: "RM_later", name: before.room.name } })
      await stage.first.ask(foreign(now, "now"))
      await tell(joined(now, T + 1_000))
      expect(stage.relayed()).toEqual([])
      expect(await stage.calls()).toMatchObject([
        { sip_call_id: before.id, asked_id: "before" },
        { sip_call_id: now.id, asked_id: "now" },
      ])
    })

    it("one caller's two calls in the same room at the same moment", async () => {
      for (let round = 0; round < 20; round++) {
        const one = makeScene()
        const other = makeScene({ room: one.room })
        const ends = await atOnce(round, [
          () => stage.first.tell(joined(one)),
          () => stage.second.tell(joined(other)),
        ])
        expect(ends.map(({ end }) => end)).toEqual(["HandedOver", "HandedOver"])
        expect(stage.relayed().slice(-2).sort()).toEqual([one.id, other.id].sort())
      }
      expect(await stage.calls()).toHaveLength(40)
      expect(await stage.leads()).toHaveLength(1)
      expect(stage.failures).toEqual([])
    })

    it("one caller's two calls in the same room that were asked for by their own ids", async () => {
      const one = makeScene()
      const other = makeScene({ room: one.room })
      for (const scene of [one, other]) await stage.first.ask(foreign(scene, scene.id))
      await tellAll(joined(one), joined(other))
      expect(stage.relayed()).toEqual([])
      expect(await stage.calls()).toHaveLength(2)
    })
  })

  describe("a caller who reconnects", () => {
    // The old leg is left in the second in which the new one joins.
    const again = T + 7_300
    const oldLeft = (scene: Scene) => left(scene, T + 7_000)
    const newJoined = (scene: Scene) => joined(scene, again)

    it.each([
      ["the leave of the old leg first", (scene: Scene) => [oldLeft(scene), newJoined(scene)]],
      ["the join of the new leg first", (scene: Scene) => [newJoined(scene), oldLeft(scene)]],
    ])("is handed over once, and the call goes on: %s", async (_, events) => {
      const scene = makeScene()
      await tellAll(joined(scene), agentJoined(scene, T + 2_000), ...events(scene))
      expect(await oneCall()).toMatchObject({ status: "active", ended_at_ms: null, duration_ms: null })
      expect((await tell(joined(scene))).end).toBe("AlreadyAccepted")
      expect(stage.relayed()).toEqual([scene.id])
      await tell(left(scene, T + 60_000, again))
      expect(await oneCall()).toMatchObject({
        status: "completed",
        ring_ms: 2_000,
        duration_ms: 58_000,
        ended_at_ms: T + 60_000,
      })
      expect(await stage.leads()).toMatchObject([{ status: "completed" }])
    })

    it("still rings where nobody has answered, and is missed when the last leg leaves", async () => {
      const scene = makeScene()
      await tellAll(joined(scene), oldLeft(scene))
      expect(await oneCall()).toMatchObject({ status: "missed" })
      await tell(newJoined(scene))
      expect(await oneCall()).toMatchObject({ status: "ringing", hung_up_by: null, end_reason: null })
      expect(await stage.leads()).toMatchObject([{ status: "calling" }])
      await tell(left(scene, T + 9_000, again))
      expect(await oneCall()).toMatchObject({ status: "missed", ring_ms: 9_000, duration_ms: 0 })
      expect(stage.relayed()).toEqual([scene.id])
    })

    it("was nobody's: the new leg is handed over where the old one came and went unseen", async () => {
      const scene = makeScene()
      await tellAll(oldLeft(scene), newJoined(scene))
      expect(stage.relayed()).toEqual([scene.id])
      expect(await oneCall()).toMatchObject({ status: "ringing", started_at_ms: T })
    })
  })

  describe("a call ends", () => {
    it("before it began, where its leave came first: nothing is handed over", async () => {
      const scene = makeScene()
      await tell(left(scene, T + 3_000))
      const told = await tell(joined(scene))
      expect([told.status, JSON.parse(told.text)]).toEqual([
        200,
        { ok: true, replayed: true, outcome: "left" },
      ])
      expect(stage.relayed()).toEqual([])
      expect(await oneCall()).toMatchObject({
        status: "missed",
        ring_ms: 3_000,
        hung_up_by: "caller",
        end_reason: "gave up",
      })
    })

    it.each([
      ["after its join", [joined, (scene: Scene) => aborted(scene)]],
      ["before its join", [(scene: Scene) => aborted(scene), joined]],
    ])("failed, where the connection was aborted, told %s", async (_, events) => {
      const scene = makeScene()
      for (const event of events) await tell(event(scene))
      expect(await oneCall()).toMatchObject({ status: "failed", end_reason: "aborted", duration_ms: 0 })
      expect(await stage.leads()).toMatchObject([{ status: "failed" }])
    })

    it.each([
      ["missed", undefined, { ring_ms: 30_000, duration_ms: 0, answered_at_ms: null }],
      ["completed", T + 4_000, { ring_ms: 4_000, duration_ms: 26_000 }],
    ])("%s, where only the room's end is known", async (status, answeredAt, more) => {
      const scene = makeScene()
      await tell(joined(scene))
      if (answeredAt !== undefined) await tell(agentJoined(scene, answeredAt))
      await tell(roomFinished(scene, T + 30_000))
      expect(await oneCall()).toMatchObject({
        status,
        ended_at_ms: T + 30_000,
        hung_up_by: "us",
        end_reason: "room finished",
        ...more,
      })
      expect(await stage.sessions()).toEqual({ [scene.room.sid]: "stopped" })
      // Its own leave knows better.
      await tell(left(scene, T + 10_000))
      expect(await oneCall()).toMatchObject({ status, ended_at_ms: T + 10_000, hung_up_by: "caller" })
    })

    it("not with the late end of an older room of that name", async () => {
      const older = makeScene()
      const newer = makeScene({ room: { sid: "RM_newer", name: older.room.name } })
      await tellAll(roomStarted(older), joined(older), left(older, T + 5_000))
      await tellAll(roomStarted(newer, T + 10_000), joined(newer, T + 10_000), agentJoined(newer, T + 12_000))
      await tell(roomFinished(older, T + 25_000))
      expect(await stage.sessions()).toEqual({ [older.room.sid]: "stopped", RM_newer: "live" })
      expect(await stage.calls()).toMatchObject([{ status: "missed" }, { status: "active" }])
    })
  })

  describe("a call is answered", () => {
    const answeredBy = async (someone: (scene: Scene) => Someone, join = T + 2_000) => {
      const scene = makeScene()
      await tell(joined(scene))
      const told = await tell(eventOf(scene, "participant_joined", join, someone(scene)))
      const [call] = (await stage.calls()).filter((row) => row["sip_call_id"] === scene.id)
      return { call, told, scene }
    }

    it.each<[string, (scene: Scene) => Someone]>([
      ["an agent", (scene) => someoneElse(scene, "AGENT", T + 2_000)],
      ["a person", (scene) => someoneElse(scene, "STANDARD", T + 2_000)],
      ["a person, whose kind LiveKit leaves out", (scene) => someoneElse(scene, undefined, T + 2_000)],
      ["somebody we called, and who picked up", (scene) => legOf(scene, "active", T + 2_000)],
    ])("by %s", async (_, someone) => {
      const { call, told } = await answeredBy(someone)
      expect(told.end).toBe("Ignored")
      expect(call).toMatchObject({
        status: "active",
        answered_at_ms: T + 2_000,
        ring_ms: 2_000,
        answerers: 1,
      })
    })

    it.each<[string, (scene: Scene) => Someone]>([
      ["somebody we are still calling", (scene) => legOf(scene, "dialing", T + 2_000)],
      ["a recorder", (scene) => someoneElse(scene, "EGRESS", T + 2_000)],
      ["a stream", (scene) => someoneElse(scene, "INGRESS", T + 2_000)],
      [
        "another caller",
        (scene) =>
          callerOf(makeScene({ room: scene.room, caller: "+15559876543" }), "active", T + 2_000, {
            sid: "PA_2",
          }),
      ],
    ])("never by %s", async (_, someone) => {
      const { call } = await answeredBy(someone)
      expect(call).toMatchObject({ status: "ringing", answered_at_ms: null, answerers: 0 })
    })

    it("by somebody we called, once the leg has come back as picked up", async () => {
      const { scene } = await answeredBy((each) => legOf(each, "dialing", T + 2_000))
      await tell(eventOf(scene, "participant_joined", T + 6_000, legOf(scene, "active", T + 6_000)))
      expect((await stage.calls()).filter((row) => row["sip_call_id"] === scene.id)).toMatchObject([
        { status: "active", answered_at_ms: T + 6_000 },
      ])
      expect(stage.relayed()).toEqual([scene.id])
    })

    it("twice, and both answerers are counted", async () => {
      const scene = makeScene()
      await tellAll(
        joined(scene),
        agentJoined(scene, T + 3_000, "second"),
        agentJoined(scene, T + 2_000, "first"),
        agentJoined(scene, T + 2_000, "first"),
      )
      expect(await oneCall()).toMatchObject({ answered_at_ms: T + 2_000, answerers: 2 })
    })

    it("by one answerer, who reconnects", async () => {
      const scene = makeScene()
      const legs = [T + 2_000, T + 8_000].map((at) => ({
        ...someoneElse(scene, "AGENT", at),
        sid: `PA_${scene.id}_${at}`,
      }))
      await tell(joined(scene))
      await tell(eventOf(scene, "participant_joined", T + 2_000, legs[0]))
      await tell(eventOf(scene, "participant_left", T + 7_000, legs[0]))
      await tell(eventOf(scene, "participant_joined", T + 8_000, legs[1]))
      expect(await oneCall()).toMatchObject({ status: "active", answered_at_ms: T + 2_000, answerers: 1 })
    })

    const early = [agentJoinedAt(T - 60_000), agentLeftAt(T - 10_000, T - 60_000)]
    it.each([
      ["told before", [...early, (scene: Scene) => joined(scene)]],
      ["told after", [(scene: Scene) => joined(scene), ...early]],
      ["told backwards", [(scene: Scene) => joined(scene), ...early.toReversed()]],
    ])("not by who had left the shared room before the caller came, %s", async (_, events) => {
      const scene = makeScene()
      for (const event of events) await tell(event(scene))
      expect(await oneCall()).toMatchObject({ status: "ringing", answered_at_ms: null, answerers: 0 })
    })

    it("at once by who was in the room already", async () => {
      const scene = makeScene()
      await tellAll(agentJoined(scene, T - 60_000), joined(scene))
      expect(await oneCall()).toMatchObject({ status: "active", answered_at_ms: T, ring_ms: 0 })
    })
  })

  describe("a lead", () => {
    it("follows the newest call, whichever event comes last", async () => {
      const older = makeScene()
      const newer = makeScene()
      await tellAll(
        joined(newer, T + 60_000),
        agentJoined(newer, T + 61_000),
        left(newer, T + 70_000, T + 60_000),
      )
      await tellAll(joined(older), left(older, T + 5_000))
      expect(await stage.leads()).toMatchObject([{ status: "completed", last_call_ms: T + 60_000 }])
    })
  })

  describe("two facts that are told at the same moment both count:", () => {
    const rounds = kind === "postgres" ? 100 : 15
    const told = (round: number): Told => (round % 3 === 0 ? "receive" : "dispatch")

    const eachRound = async (
      prepare: (scene: Scene) => Promise<unknown>,
      one: (scene: Scene) => unknown,
      other: (scene: Scene) => unknown,
      expected: Record<string, unknown>,
    ) => {
      for (let round = 0; round < rounds; round++) {
        const scene = makeScene()
        await prepare(scene)
        await atOnce(round, [
          () => stage.first.tell(one(scene), told(round)),
          () => stage.second.tell(other(scene), told(round + 1)),
        ])
        await stage.settled()
        const calls = await stage.rows(sql`
          SELECT status, answered_at_ms::float8, ended_at_ms::float8 FROM calls WHERE room_key = ${scene.room.sid}`)
        expect([round, calls]).toEqual([round, [expected]])
      }
      expect(stage.failures).toEqual([])
    }
    const nothing = () => Promise.resolve()

    it(
      "the agent's join and the caller's",
      () =>
        eachRound(nothing, joined, agentJoinedAt(T + 1_500), {
          status: "active",
          answered_at_ms: T + 1_500,
          ended_at_ms: null,
        }),
      60_000,
    )

    it(
      "the agent's join and that of a caller who was asked for",
      () =>
        eachRound(
          (scene) => stage.first.ask(questionOf(scene, scene.id, { room_name: scene.room.name })),
          joined,
          agentJoinedAt(T + 1_500),
          { status: "active", answered_at_ms: T + 1_500, ended_at_ms: null },
        ),
      60_000,
    )

    it(
      "the agent's join and the caller's leave",
      () =>
        eachRound(
          (scene) => tell(joined(scene)),
          (scene) => left(scene, T + 9_000),
          agentJoinedAt(T + 1_500),
          { status: "completed", answered_at_ms: T + 1_500, ended_at_ms: T + 9_000 },
        ),
      60_000,
    )

    it(
      "the agent's leave, before the caller came, and the caller's join",
      () =>
        eachRound(
          (scene) => tell(agentJoined(scene, T - 60_000)),
          joined,
          agentLeftAt(T - 10_000, T - 60_000),
          { status: "ringing", answered_at_ms: null, ended_at_ms: null },
        ),
      60_000,
    )

    it(
      "the leave of the old leg and the join of the new",
      () =>
        eachRound(
          (scene) => tell(joined(scene)),
          (scene) => left(scene, T + 9_000),
          (scene) => joined(scene, T + 9_400),
          { status: "ringing", answered_at_ms: null, ended_at_ms: null },
        ),
      60_000,
    )

    it("the caller's join and the question", async () => {
      for (let round = 0; round < rounds; round++) {
        const scene = makeScene()
        await tell(agentJoined(scene, T + 1_500))
        await atOnce<unknown>(round, [
          () => stage.first.tell(joined(scene), "receive"),
          () => stage.second.ask(questionOf(scene, scene.full)),
        ])
        const calls = await stage.rows(sql`
          SELECT status, answered_at_ms::float8 FROM calls WHERE room_key = ${scene.room.sid}`)
        expect([round, calls]).toEqual([round, [{ status: "active", answered_at_ms: T + 1_500 }]])
      }
      expect(stage.failures).toEqual([])
    }, 300_000)
  })

  describe("whatever the order,", () => {
    it("a call began with the join of its first leg", async () => {
      const scene = makeScene()
      await tellAll(joined(scene, T + 7_300), joined(scene))
      expect(await oneCall()).toMatchObject({ caller_first_joined_ms: T, started_at_ms: T })
    })

    it("a leg that joins while the call is being handed over counts", async () => {
      const scene = makeScene()
      let release = () => {}
      const usual = stage.worker.behaviour.dispatch
      stage.worker.behaviour.dispatch = (request, response) => {
        release = () => usual(request, response)
      }
      const handing = tell(joined(scene))
      await eventually("the worker has the call", () => stage.relayed().length > 0)
      const before = stage.first.shared.length
      const again = tell(joined(scene, T + 7_300))
      await eventually("both wait", () => stage.first.shared.length > before)
      stage.worker.behaviour.dispatch = usual
      release()
      expect([(await handing).end, (await again).end]).toEqual(["HandedOver", "HandedOver"])
      await tell(left(scene, T + 7_000))
      expect(stage.relayed()).toEqual([scene.id])
      expect(await oneCall()).toMatchObject({ status: "ringing", ended_at_ms: null })
    })

    it("a call without a dispatch rule tells whether it made the lead", async () => {
      const scene = makeScene()
      await tell(eventOf(scene, "participant_left", T + 4_000, withoutRule(callerOf(scene, "hangup", T))))
      await tell(eventOf(scene, "participant_joined", T, withoutRule(callerOf(scene, "ringing", T))))
      expect(await stage.leads()).toHaveLength(1)
      expect(await oneCall()).toMatchObject({ status: "missed", lead_created: true })
    })
  })

  describe("no lead is made", () => {
    it("of somebody we called who rejoins", async () => {
      const scene = makeScene()
      for (const [status, at] of [
        ["dialing", T],
        ["active", T + 5_000],
      ] as const) {
        await tell(eventOf(scene, "participant_joined", at, legOf(scene, status, at)))
      }
      expect(stage.relayed()).toEqual([])
      expect(await oneCall()).toMatchObject({ direction: "outbound", lead_id: null })
      expect(await stage.leads()).toEqual([])
    })

    it("in a campaign to which the number came in mid-call", async () => {
      const scene = makeScene({ dialed: movingNumber })
      await tell(joined(scene))
      const [moved] = await stage.rows(sql`
        WITH next AS (INSERT INTO campaigns (tenant_id, name) SELECT id, 'next' FROM tenants RETURNING id)
        UPDATE dids SET campaign_id = next.id FROM next WHERE number = ${movingNumber} RETURNING next.id`)
      await eventually("the number's new campaign in force", async () => {
        const routing = await stage.first.runtime.runPromise(Routing)
        const known = await stage.first.runtime.runPromise(routing.known(movingNumber))
        return known._tag === "Known" && known.did.campaign?.id === moved?.["id"]
      })
      await tell(left(scene, T + 4_000))
      expect(await stage.leads()).toMatchObject([{ status: "missed" }])
    })
  })

  it("a caller who redials into a room of the same name is nobody else's, either", async () => {
    const before = makeScene()
    const again = makeScene({ room: { sid: "RM_redialed", name: before.room.name } })
    for (const [scene, at] of [
      [before, T],
      [again, T + 20_000],
    ] as const) {
      const question = questionOf(scene, `foreign-${scene.id}`, { room_name: scene.room.name })
      expect((await stage.first.ask(question)).agent_name).toBe(campaignAgent)
      await tellAll(joined(scene, at), left(scene, at + 5_000, at))
    }
    expect(stage.relayed()).toEqual([])
    expect(await stage.calls()).toHaveLength(2)
  })
})

// Each on a database of its own: what goes wrong here would go on in the next test.
describe.each(databaseKinds)("on %s, many things at the same moment:", (kind) => {
  let stage: Stage

  beforeEach(async () => {
    stage = await makeStage(kind)
  })
  afterEach(() => stage?.close())

  it("a hundred first calls of one caller make one lead, which follows the newest", async () => {
    const all = Array.from({ length: 100 }, (_, index) => ({ scene: makeScene(), at: T + index }))
    const replicaOf = (index: number) => (index % 2 === 0 ? stage.first : stage.second)
    // The embedded database does one thing at a time, and a claim waits 5 s for it at most.
    const atOnce = stage.postgres === undefined ? 20 : all.length
    const told: Array<Answer> = []
    for (let from = 0; from < all.length; from += atOnce) {
      const some = all.slice(from, from + atOnce)
      told.push(
        ...(await Promise.all(some.map(({ at, scene }, index) => replicaOf(index).tell(joined(scene, at))))),
      )
    }
    expect(stage.failures).toEqual([])
    expect(new Set(told.map(({ end }) => end))).toEqual(new Set(["HandedOver"]))
    expect(await stage.leads()).toMatchObject([{ status: "calling", last_call_ms: T + 99 }])
    const calls = await stage.calls()
    expect(calls).toHaveLength(100)
    expect(new Set(calls.map((call) => call["lead_id"])).size).toBe(1)
    expect(calls.filter((call) => call["lead_created"])).toHaveLength(1)

    await stage.first.tell(agentJoined(all.at(-1)!.scene, T + 2_000))
    await Promise.all(all.map(({ at, scene }, index) => replicaOf(index).tell(left(scene, T + 9_000, at))))
    await stage.settled()
    expect(stage.failures).toEqual([])
    const statuses = (await stage.calls()).map((call) => call["status"])
    expect(statuses).toEqual([...Array.from({ length: 99 }, () => "missed"), "completed"])
    expect(await stage.leads()).toMatchObject([{ status: "completed", last_call_ms: T + 99 }])
  }, 300_000)

  it("two legs without a dispatch rule take a room once, whichever URL is told", async () => {
    const one = makeScene()
    const other = makeScene({ room: one.room, caller: "+15559876543" })
    const ruleless = (scene: Scene) =>
      eventOf(scene, "participant_joined", T, withoutRule(callerOf(scene, "ringing", T)))
    const busy = stage.postgres === undefined ? undefined : await holdRoom(stage.postgres, one)
    const first = stage.first.tell(ruleless(one), "receive")
    await busy?.waiting(1)
    const second = stage.second.tell(ruleless(other), "receive")
    await busy?.waiting(2)
    await busy?.release()
    expect([(await first).end, (await second).end]).toEqual(["Recorded", "Recorded"])
    // Who comes first is certain only where the room was held.
    const taken = await stage.calls()
    expect(taken).toHaveLength(1)
    expect(busy === undefined ? [one.id, other.id] : [one.id]).toContain(taken[0]?.["sip_call_id"])
  })

  it("a room's end and a caller's join both count, and neither waits for the other in vain", async () => {
    const { first, postgres, second } = stage
    // As the service itself does it, so that nothing is put off to be written later.
    const finish = async (scene: Scene) => {
      const event = await Effect.runPromise(decodeEvent(toBytes(roomFinished(scene, T + 30_000))))
      return second.runtime.runPromise(
        Effect.flatMap(Sessions, (sessions) => sessions.finished(event)).pipe(
          Effect.match({ onSuccess: ({ to }) => to, onFailure: ({ message }) => message }),
        ),
      )
    }
    for (let round = 0; round < 100; round++) {
      const scene = makeScene()
      // In some rounds the room is busy with another event, so that both are certain to wait for it.
      const busy = postgres === undefined || round % 10 > 0 ? undefined : await holdRoom(postgres, scene)
      const telling = first.tell(joined(scene))
      await busy?.waiting(1)
      const finishing = finish(scene)
      await busy?.waiting(2)
      await busy?.release()
      expect((await telling).end).toMatch(/^(HandedOver|CallerLeft)$/)
      expect(await finishing).toBe("stopped")
      const calls = await stage.rows(sql`
        SELECT status, ended_at_ms::float8 FROM calls WHERE room_key = ${scene.room.sid}`)
      expect([round, calls]).toEqual([round, [{ status: "missed", ended_at_ms: T + 30_000 }]])
    }
    expect(stage.failures).toEqual([])
  }, 300_000)
})
