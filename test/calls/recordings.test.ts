// What a real LiveKit sent, in any order and any number of times: the call log and the sessions say the same.

import { Effect, Layer, Logger, ManagedRuntime } from "effect"
import fc from "fast-check"
import { type RawBuilder, sql } from "kysely"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { CallLog } from "../../src/calls/call-log.ts"
import { TrunkDirectory } from "../../src/carriers/trunk-directory.ts"
import { signBody } from "../../src/commands/signing.ts"
import { Settings } from "../../src/config.ts"
import { Backlog } from "../../src/database/backlog.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { catchUpLayer } from "../../src/dispatch/catch-up.ts"
import { InFlight } from "../../src/dispatch/in-flight.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { dispatch, receive } from "../../src/dispatch/pipeline.ts"
import { Fleet } from "../../src/fleet/fleet.ts"
import { WorkerClient } from "../../src/fleet/worker-client.ts"
import { LiveKit } from "../../src/livekit/livekit.ts"
import { Routing } from "../../src/routing/routing.ts"
import { Sessions } from "../../src/sessions/sessions.ts"
import { Keys } from "../../src/webhook/keys.ts"
import { type DatabaseKind, databaseKinds, withoutCalls } from "../support/databases.ts"
import { around, databaseLayer, gaveWay, patience } from "../support/engines.ts"
import { recorded, recordings } from "../support/events.ts"
import { cases } from "../support/properties.ts"
import { apiKey, apiSecret, coreSecret, toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

// Enough for every order of a few events to come up, and few enough for a minute on two small processors.
const shuffles = 25

interface Story {
  readonly calls: ReadonlyArray<Record<string, unknown>>
  readonly sessions: ReadonlyArray<Record<string, unknown>>
}

interface Caller {
  readonly id: string
  readonly full: string
  readonly caller: string
  readonly callerE164: string | null
  readonly dialed: string
  readonly dialedE164: string | null
  readonly identity: string
  readonly room: readonly [sid: string, name: string]
  readonly firstJoined: number
  readonly lastJoined?: number
  readonly trunk?: string
  readonly rule?: string
}

interface End {
  readonly at: number
  readonly sip: string
  readonly reason: string
}

/** What the log must say of a call that has ended. */
interface Verdict {
  readonly status: "completed" | "missed"
  readonly answered?: number
  readonly ring: number
  readonly duration: number
  readonly by: "caller" | "us"
  readonly why: string
}

const inbound = (from: Caller, end?: End, verdict?: Verdict) => ({
  call_key: from.id,
  direction: "inbound",
  status: verdict?.status ?? "ringing",
  caller: from.caller,
  caller_e164: from.callerE164,
  dialed: from.dialed,
  dialed_e164: from.dialedE164,
  trunk_id: from.trunk ?? "ST_k47j77oQHrRW",
  rule_id: from.rule ?? "SDR_NLKTzcWYD98L",
  sip_call_id: from.id,
  sip_call_id_full: from.full,
  participant_identity: from.identity,
  room_key: from.room[0],
  room_sid: from.room[0],
  room_name: from.room[1],
  caller_first_joined_ms: from.firstJoined,
  caller_joined_ms: from.lastJoined ?? from.firstJoined,
  caller_left_ms: end === undefined ? null : (from.lastJoined ?? from.firstJoined),
  left_at_ms: end?.at ?? null,
  left_aborted: end === undefined ? null : false,
  left_status: end?.sip ?? null,
  left_reason: end?.reason ?? null,
  started_at_ms: from.firstJoined,
  answered_at_ms: verdict?.answered ?? null,
  ended_at_ms: end?.at ?? null,
  ring_ms: verdict?.ring ?? null,
  duration_ms: verdict?.duration ?? null,
  hung_up_by: verdict?.by ?? null,
  end_reason: verdict?.why ?? null,
  answerers: verdict?.answered === undefined ? 0 : 1,
  ended_once: end !== undefined,
})

const session = (sid: string, name: string, started: number, ended: number | null, restarted = started) => ({
  room_key: sid,
  room_sid: sid,
  room_name: name,
  started_at_ms: started,
  restarted_at_ms: restarted,
  ended_at_ms: ended,
  status: ended === null ? "live" : "stopped",
})

const outbound = (id: string, full: string, room: readonly [string, string]) => ({
  call_key: id,
  direction: "outbound",
  status: null,
  sip_call_id: id,
  sip_call_id_full: full,
  room_key: room[0],
  room_sid: room[0],
  room_name: room[1],
  answered_at_ms: null,
  ended_at_ms: null,
  ring_ms: null,
  duration_ms: null,
  hung_up_by: null,
  end_reason: null,
  answerers: 0,
  ended_once: false,
})

const hungUpByUs = ["RM_x5eKzU9hcuQu", "call-_+15550005001_RABQRP3pxnpb"] as const
const alice = ["RM_3irbNSHH6gf2", "call-_alice.b-c_SER6eYmyxdCg"] as const
const anonymous = ["RM_mZ7XjY45tNoQ", "call-_anonymous_Sutq9Uk9xT9N"] as const
const answered = ["RM_xrxwaNjhjaJz", "call-_+15551230002_RqR3Yc5vJNZ7"] as const
const dispatched = ["RM_kig4Rne34xue", "call-_+15550004001_9Vg32gnZc62y"] as const
const gaveUp = ["RM_ZNom4s7jDkRW", "call-_+15550003002_d2WVbDNMrWm7"] as const
const withoutPlus = ["RM_P7v4qsu3JPLU", "call-_15550001115_uF282uMt7PWg"] as const
const hidden = ["RM_kC9rju7LKdAq", "call-_1111_W9qeVdZsGBAB"] as const
const restarted = ["RM_nfoYkBpjiwZh", "call-_+15550002001_fc6DYD4JNewR"] as const
const national = ["RM_ndQypn2aqLUV", "call-_5550001113_34ahkDKcQeSj"] as const
const firstCallee = ["RM_CumMydmKzDsF", "call-outbound-test"] as const
const secondCallee = ["RM_bj6bjpBKwis7", "call-outbound-test2"] as const
const rangOut = ["RM_pDyJf3kUCvxA", "call-_+15551234567_fxm5wPWGp24m"] as const
const removed = ["RM_rsfyVg7AJaBE", "call-_+15550001120_tfZRoJXQ9jLd"] as const

// Written down from the README of the recordings and from the times in the bodies: joins in milliseconds, leaves
// and the rooms' own events in whole seconds, which is all that LiveKit says. Every recording must be told here.
const stories: Record<string, Story> = {
  "agent-hung-up": {
    calls: [
      inbound(
        {
          id: "SCL_bawm4RKLMkGK",
          full: "1-10590@127.0.0.1",
          caller: "+15550005001",
          callerE164: "+15550005001",
          dialed: "+18885550101",
          dialedE164: "+18885550101",
          identity: "sip_+15550005001",
          room: hungUpByUs,
          firstJoined: 1795231044694,
        },
        { at: 1795231049000, sip: "active", reason: "ROOM_DELETED" },
        {
          status: "completed",
          answered: 1795231047221,
          ring: 2_527,
          duration: 1_779,
          by: "us",
          why: "hung up",
        },
      ),
    ],
    sessions: [session(...hungUpByUs, 1795231044000, 1795231049000)],
  },
  "alphanumeric-caller": {
    calls: [
      inbound({
        id: "SCL_Ji9CmeN6HtG7",
        full: "1-9815@127.0.0.1",
        caller: "alice.b-c",
        callerE164: null,
        dialed: "+18885550100",
        dialedE164: "+18885550100",
        identity: "sip_alice.b-c",
        room: alice,
        firstJoined: 1795230408222,
      }),
    ],
    sessions: [session(...alice, 1795230408000, null)],
  },
  "anonymous-caller": {
    calls: [
      inbound(
        {
          id: "SCL_UC4cViaiU6Ub",
          full: "1-9812@127.0.0.1",
          caller: "anonymous",
          callerE164: null,
          dialed: "+18885550100",
          dialedE164: "+18885550100",
          identity: "sip_anonymous",
          room: anonymous,
          firstJoined: 1795230400707,
        },
        { at: 1795230580000, sip: "ringing", reason: "CLIENT_INITIATED" },
        { status: "missed", ring: 179_293, duration: 0, by: "us", why: "rang out" },
      ),
    ],
    sessions: [session(...anonymous, 1795230400000, null)],
  },
  "answered-by-agent": {
    calls: [
      inbound(
        {
          id: "SCL_kt9VMibtvTwe",
          full: "1-9649@127.0.0.1",
          caller: "+15551230002",
          callerE164: "+15551230002",
          dialed: "+18885550100",
          dialedE164: "+18885550100",
          identity: "sip_+15551230002",
          room: answered,
          firstJoined: 1795230055139,
        },
        { at: 1795230060000, sip: "hangup", reason: "CLIENT_INITIATED" },
        {
          status: "completed",
          answered: 1795230057636,
          ring: 2_497,
          duration: 2_364,
          by: "caller",
          why: "hung up",
        },
      ),
    ],
    sessions: [session(...answered, 1795230055000, 1795230086000)],
  },
  "answered-by-dispatched-agent": {
    calls: [
      inbound(
        {
          id: "SCL_3RbewgkgggXU",
          full: "1-10310@127.0.0.1",
          caller: "+15550004001",
          callerE164: "+15550004001",
          dialed: "+18885550100",
          dialedE164: "+18885550100",
          identity: "sip_+15550004001",
          room: dispatched,
          firstJoined: 1795230824003,
        },
        { at: 1795230827000, sip: "hangup", reason: "CLIENT_INITIATED" },
        {
          status: "completed",
          answered: 1795230824426,
          ring: 423,
          duration: 2_574,
          by: "caller",
          why: "hung up",
        },
      ),
    ],
    sessions: [session(...dispatched, 1795230824000, 1795230847000)],
  },
  "caller-gave-up": {
    calls: [
      inbound(
        {
          id: "SCL_7QhcmY9Fwqsq",
          full: "1-10067@127.0.0.1",
          caller: "+15550003002",
          callerE164: "+15550003002",
          dialed: "+18885550101",
          dialedE164: "+18885550101",
          identity: "sip_+15550003002",
          room: gaveUp,
          firstJoined: 1795230663187,
        },
        { at: 1795230665000, sip: "hangup", reason: "CLIENT_INITIATED" },
        { status: "missed", ring: 1_813, duration: 0, by: "caller", why: "gave up" },
      ),
    ],
    sessions: [session(...gaveUp, 1795230663000, 1795230685000)],
  },
  "from-without-plus": {
    calls: [
      inbound({
        id: "SCL_Nn8apwXsDoVX",
        full: "1-9818@127.0.0.1",
        caller: "15550001115",
        callerE164: "+15550001115",
        dialed: "+18885550100",
        dialedE164: "+18885550100",
        identity: "sip_15550001115",
        room: withoutPlus,
        firstJoined: 1795230415742,
      }),
    ],
    sessions: [session(...withoutPlus, 1795230415000, null)],
  },
  "hidden-number": {
    calls: [
      inbound(
        {
          id: "SCL_QquxPv8mmjgj",
          full: "1-9799@127.0.0.1",
          caller: "",
          callerE164: null,
          dialed: "",
          dialedE164: null,
          identity: "sip_7a8e1bad42416f9a",
          room: hidden,
          firstJoined: 1795230370664,
          trunk: "ST_AGDgogDLR9uw",
          rule: "SDR_vZAJwbFaxiUK",
        },
        { at: 1795230550000, sip: "ringing", reason: "CLIENT_INITIATED" },
        { status: "missed", ring: 179_336, duration: 0, by: "us", why: "rang out" },
      ),
    ],
    sessions: [session(...hidden, 1795230370000, 1795230570000)],
  },
  "livekit-restarted": {
    calls: [
      inbound(
        {
          id: "SCL_V6pHcJVCLoA5",
          full: "1-9924@127.0.0.1",
          caller: "+15550002001",
          callerE164: "+15550002001",
          dialed: "+18885550100",
          dialedE164: "+18885550100",
          identity: "sip_+15550002001",
          room: restarted,
          firstJoined: 1795230582290,
          lastJoined: 1795230589457,
        },
        { at: 1795230762000, sip: "ringing", reason: "CLIENT_INITIATED" },
        { status: "missed", ring: 179_710, duration: 0, by: "us", why: "rang out" },
      ),
    ],
    sessions: [session(...restarted, 1795230582000, 1795230782000, 1795230589000)],
  },
  "national-number-and-headers": {
    calls: [
      inbound(
        {
          id: "SCL_sDAhFSRBBBin",
          full: "1-9806@127.0.0.1",
          caller: "5550001113",
          callerE164: "+15550001113",
          dialed: "8885550300",
          dialedE164: "+18885550300",
          identity: "sip_5550001113",
          room: national,
          firstJoined: 1795230385683,
          trunk: "ST_p2gBBb7BwTuz",
          rule: "SDR_NeCBV49NBUJ9",
        },
        { at: 1795230565000, sip: "ringing", reason: "CLIENT_INITIATED" },
        { status: "missed", ring: 179_317, duration: 0, by: "us", why: "rang out" },
      ),
    ],
    sessions: [session(...national, 1795230385000, null)],
  },
  "outbound-leg": {
    calls: [
      outbound("SCL_3jtLiHdUX4qQ", "zi2Hssrc6CeHH0vc3QjEXuzIhXU", firstCallee),
      outbound("SCL_EtcNtQ6cm9qr", "0kLFxSiFdFcyOJIDDflTLGkhIyA", secondCallee),
    ],
    sessions: [
      session(...secondCallee, 1795230552000, 1795230556000),
      session(...firstCallee, 1795230545000, 1795230550000),
    ],
  },
  "rang-out": {
    calls: [
      inbound(
        {
          id: "SCL_qKPS8NxgVE4b",
          full: "1-9553@127.0.0.1",
          caller: "+15551234567",
          callerE164: "+15551234567",
          dialed: "+18885550100",
          dialedE164: "+18885550100",
          identity: "sip_+15551234567",
          room: rangOut,
          firstJoined: 1795229958494,
        },
        { at: 1795230138000, sip: "ringing", reason: "CLIENT_INITIATED" },
        { status: "missed", ring: 179_506, duration: 0, by: "us", why: "rang out" },
      ),
    ],
    sessions: [session(...rangOut, 1795229958000, 1795230158000)],
  },
  "removed-while-ringing": {
    calls: [
      inbound(
        {
          id: "SCL_2GQmJxwQ74G9",
          full: "1-9831@127.0.0.1",
          caller: "+15550001120",
          callerE164: "+15550001120",
          dialed: "+18885550100",
          dialedE164: "+18885550100",
          identity: "sip_+15550001120",
          room: removed,
          firstJoined: 1795230439809,
        },
        { at: 1795230442000, sip: "ringing", reason: "PARTICIPANT_REMOVED" },
        { status: "missed", ring: 2_191, duration: 0, by: "us", why: "turned away" },
      ),
    ],
    sessions: [session(...removed, 1795230439000, 1795230462000)],
  },
  "retried-after-429": {
    calls: [],
    sessions: [session("RM_wRZBBuewdNZw", "retry-s429", 1795230142000, null)],
  },
  "retried-after-500": {
    calls: [],
    sessions: [session("RM_z4EdX6b9pffM", "retry-s500", 1795230120000, null)],
  },
  "retried-after-reset": {
    calls: [],
    sessions: [session("RM_JFrKjHmXPyBP", "retry-reset", 1795230187000, null)],
  },
}

it("tells the story of every recording", () => {
  expect(Object.keys(stories).sort()).toEqual(recordings)
})

type Url = "dispatch" | "receive"

interface Delivery {
  /** Which line of the recording. */
  readonly line: number
  readonly url: Url
}

/** One play of a recording: the deliveries in their order, so many of them under way at once. */
interface Play {
  readonly order: ReadonlyArray<Delivery>
  readonly together: number
}

const asItCame = (lines: number, times: number): Play => ({
  order: Array.from({ length: lines * times }, (_, index) => ({
    line: Math.floor(index / times),
    url: "dispatch",
  })),
  together: times,
})

// Each line reaches the first URL once, and the other two, which record alike, as often as it happens.
const shuffled = (lines: number): fc.Arbitrary<Play> =>
  fc.array(fc.nat({ max: 2 }), { minLength: lines, maxLength: lines }).chain((others) => {
    const deliveries = others.flatMap(
      (times, line): ReadonlyArray<Delivery> => [
        { line, url: "dispatch" },
        ...Array.from({ length: times }, (): Delivery => ({ line, url: "receive" })),
      ],
    )
    return fc.record({
      order: fc.shuffledSubarray(deliveries, { minLength: deliveries.length }),
      together: fc.constantFrom(1, 1, 3, deliveries.length),
    })
  })

/** Everything in its order, but for one line that comes before another. */
const moved = (lines: number, line: number, before: number): Play => {
  const rest = Array.from({ length: lines }, (_, index) => index).filter((index) => index !== line)
  const order = rest.flatMap((index) => (index === before ? [line, index] : [index]))
  return { order: order.map((each) => ({ line: each, url: "dispatch" })), together: 1 }
}

// Played beside the shuffles: the second leg's join before the first one's, a callee's leave before the join.
const alsoPlayed: Record<string, (lines: number) => Play> = {
  "livekit-restarted": (lines) => moved(lines, 4, 1),
  "outbound-leg": (lines) => moved(lines, 4, 1),
}

// What only says who handed the call over and when, and what the database makes up, may differ between plays.
const notCompared = [
  ...["id", "state", "claim", "owner", "lease_until", "attempts", "unsent", "worker", "worker_url"],
  ...["answer_status", "answer_type", "answer_body", "outcome", "agent_name", "metadata", "explanation"],
  ...["created_at", "claimed_at", "settled_at", "watch_at", "watched", "rescues", "unanswered_at"],
]

type Row = Record<string, unknown>

const withoutNotCompared = (row: Row): Row =>
  Object.fromEntries(
    Object.entries(row)
      .filter(([name]) => !notCompared.includes(name))
      .map(([name, value]) => [name, name.endsWith("_ms") && value !== null ? Number(value) : value]),
  )

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
  const failures: Array<string> = []
  const watched = Layer.effect(
    Database,
    Effect.map(Database, (database) =>
      around(database, (run, statement) =>
        Effect.tapError(run, (error) =>
          Effect.sync(() => gaveWay(error, statement) || failures.push(error.message)),
        ),
      ),
    ),
  ).pipe(Layer.provide(databaseLayer(kind)))
  const runtime = ManagedRuntime.make(
    catchUpLayer.pipe(
      Layer.provideMerge(
        Layer.mergeAll(
          Layer.mergeAll(Ledger.layer, CallLog.layer, Sessions.layer, Keys.layer, InFlight.layer),
          Layer.mergeAll(Fleet.layer, TrunkDirectory.layer, Routing.layer, WorkerClient.layer, LiveKit.layer),
        ),
      ),
      Layer.provideMerge(Layer.provide(Backlog.layer, patience)),
      Layer.provide(Cache.layer),
      Layer.provideMerge(watched),
      Layer.provideMerge(Layer.succeed(Settings, settings)),
      Layer.provideMerge(Logger.layer([])),
    ),
  )
  const rows = (statement: RawBuilder<Row>) =>
    runtime.runPromise(Effect.flatMap(Database, ({ run }) => run(statement.compile(query))))
  await eventually("the worker is up", async () => {
    const fleet = await runtime.runPromise(Fleet)
    return (await runtime.runPromise(fleet.view)).some(({ up }) => up)
  })
  return {
    worker,
    failures,
    rows,
    /** What became of the delivery, by its name. */
    deliver: async (body: string, url: Url): Promise<string> => {
      const bytes = toBytes(body)
      const request = { authorization: await signBody(bytes, apiKey, apiSecret), body: bytes }
      return runtime.runPromise(
        url === "dispatch"
          ? dispatch(request).pipe(
              Effect.match({ onSuccess: ({ end }) => end._tag, onFailure: ({ _tag }) => _tag }),
            )
          : receive(request).pipe(
              Effect.match({ onSuccess: () => "Recorded", onFailure: ({ _tag }) => _tag }),
            ),
      )
    },
    /** Until nothing is under way, and no write waits that a slow database has put off. */
    settled: async () => {
      const backlog = await runtime.runPromise(Backlog)
      await eventually("every fact is written", () => {
        const { claims, stories } = backlog.size()
        return claims + stories === 0
      })
      await runtime.runPromise(Effect.flatMap(InFlight, ({ idle }) => idle))
    },
    close: async () => {
      await runtime.dispose()
      await worker.stop()
    },
  }
}

const batchesOf = ({ order, together }: Play) =>
  Array.from({ length: Math.ceil(order.length / together) }, (_, batch) =>
    order.slice(batch * together, (batch + 1) * together),
  )

// A join that comes while another one is handed over shares its answer.
const endings = new Set(["Ignored", "Recorded", "HandedOver", "AlreadyAccepted", "CallerLeft"])

describe.each(databaseKinds)("on %s, the log of", (kind) => {
  let stage: Awaited<ReturnType<typeof makeStage>>

  beforeAll(async () => {
    stage = await makeStage(kind)
  })
  afterAll(() => stage?.close())

  let plays = 0
  /** With ids of its own: an event that was answered is known to be, whatever has become of its rows. */
  const inPlay = (body: string) => body.replace(/"id": ?"EV_/, `"id":"EV_${plays}_`)

  /** Plays the recording on empty tables; returns what the log says then, and what was relayed. */
  const play = async (name: string, shuffle: Play) => {
    await stage.settled()
    await stage.rows(withoutCalls)
    stage.failures.length = 0
    plays++
    const lines = recorded(name)
    const before = stage.worker.seen.length
    const ends: Array<string> = []
    for (const batch of batchesOf(shuffle)) {
      ends.push(
        ...(await Promise.all(batch.map(({ line, url }) => stage.deliver(inPlay(lines[line]!.body), url)))),
      )
    }
    await stage.settled()
    expect(stage.failures).toEqual([])
    for (const end of ends) expect(endings).toContain(end)
    const calls = await stage.rows(sql`SELECT * FROM calls ORDER BY call_key`)
    const sessions = await stage.rows(
      sql`SELECT room_key, room_sid, room_name, started_at_ms, restarted_at_ms, ended_at_ms, status
          FROM sessions ORDER BY room_key DESC`,
    )
    const answerers = await stage.rows(sql`SELECT * FROM answerers ORDER BY room_key, participant`)
    return {
      log: {
        calls: calls.map(withoutNotCompared),
        sessions: sessions.map(withoutNotCompared),
        answerers: answerers.map(withoutNotCompared),
      },
      relayed: stage.worker.seen.slice(before).map(({ body }) => body["call_id"]),
    }
  }

  const callsOf = (name: string) =>
    stories[name]!.calls.filter(({ direction }) => direction === "inbound").map((each) => each["call_key"])

  describe.each(recordings)("%s", (name) => {
    const lines = recorded(name).length
    const events = recorded(name).map(({ body }) => {
      const { event, participant } = JSON.parse(body)
      const isCaller = participant?.attributes?.["sip.ruleID"] !== undefined
      return isCaller ? { joins: event === "participant_joined", leaves: event === "participant_left" } : {}
    })
    let first: ReturnType<typeof play> | undefined
    const asSeen = () => {
      first ??= play(name, asItCame(lines, 1))
      return first
    }

    it("is the story that was seen", async () => {
      const { log, relayed } = await asSeen()
      expect(log.calls).toMatchObject(stories[name]!.calls)
      expect(log.calls).toHaveLength(stories[name]!.calls.length)
      expect(log.sessions).toEqual(stories[name]!.sessions)
      expect(relayed).toEqual(callsOf(name))
    })

    it("is the same where everything came twice", async () => {
      const { log } = await asSeen()
      const played = await play(name, asItCame(lines, 2))
      expect(played.log).toEqual(log)
      expect(played.relayed).toEqual(callsOf(name))
    })

    it("is the same in any order", async () => {
      const { log } = await asSeen()
      const examples: Array<[Play]> = name in alsoPlayed ? [[alsoPlayed[name]!(lines)]] : []
      await fc.assert(
        fc.asyncProperty(shuffled(lines), async (shuffle) => {
          const played = await play(name, shuffle)
          expect(played.log).toEqual(log)
          expect(new Set(played.relayed).size).toBe(played.relayed.length)
          if (shuffle.together > 1) return
          // Who has left before the first URL heard of the join is not given away any more.
          const joined = shuffle.order.findIndex(({ line, url }) => url === "dispatch" && events[line]?.joins)
          const left = shuffle.order.findIndex(({ line }) => events[line]?.leaves)
          expect(played.relayed).toEqual(left >= 0 && left < joined ? [] : callsOf(name))
        }),
        { ...cases, numRuns: shuffles, examples },
      )
    }, 120_000)
  })
})
