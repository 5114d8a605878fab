// Replicas that die, freeze or are replaced in the middle of a hand-over: nobody is forgotten, and nobody called twice.

import type { ServerResponse } from "node:http"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { respond, type SampleWorker, type SeenDispatch } from "../../src/commands/sample-worker.ts"
import type { Failpoint } from "../../src/failpoint.ts"
import { type AgentStage, callIdOf, numbers, ring, startAgentStage } from "../support/agent-stage.ts"
import { type JoinEvent, joinEvent } from "../support/events.ts"
import { failingAt, failpointsModule, type Strike } from "../support/failpoints.ts"
import { asUsual } from "../support/livekit-api.ts"
import { runtimes, signal } from "../support/processes.ts"
import type { Service } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { hangUp, startWorker } from "../support/workers.ts"

// LiveKit's, after a connection error, a 429 or a 5xx.
const pausesMs = [1_000, 2_000, 4_000, 8_000]

/** What one try of a delivery was answered; nothing where the connection broke or was refused. */
type Try = Awaited<ReturnType<typeof ring>> | undefined

const tryOnce = (join: JoinEvent, replica: Service): Promise<Try> =>
  ring(replica, join).catch(() => undefined)

/** Delivers as LiveKit does, each try to the replica that `next` says; `first` is a try that is under way. */
const deliver = async (
  join: JoinEvent,
  next: () => Service | Promise<Service>,
  first?: Promise<Try>,
): Promise<ReadonlyArray<Try>> => {
  const tries: Array<Try> = []
  for (const pauseMs of [...pausesMs, undefined]) {
    const answer = await (first !== undefined && tries.length === 0 ? first : tryOnce(join, await next()))
    tries.push(answer)
    if (answer !== undefined && answer.status < 500) break
    if (pauseMs !== undefined) await sleep(pauseMs)
  }
  return tries
}

/** One hand-over as a worker saw it: what LiveKit had been asked by then, and who was with the caller. */
interface Received {
  readonly worker: string
  readonly asked: number
  readonly present: number
}

interface Attempt {
  readonly target: string
  readonly outcome: string | null
  readonly reason: string | null
  readonly rescue: boolean
}

const lost = { outcome: null, rescue: false }
const unsent = { outcome: "not-sent", reason: "lease lapsed", rescue: false }
const accepted = { outcome: "accepted", rescue: false }
const rescued = { outcome: "accepted", rescue: true }

/** What a call's worker does; by default it answers, and its agent joins the caller. */
interface Manner {
  /** Whether its agent joins, and with `told` its webhook comes. */
  readonly joins?: boolean | "told"
  /** When it answers. */
  readonly answers?: Promise<unknown>
}

describe.each(runtimes)("processes that die on %s", (runtime) => {
  let stage: AgentStage
  /** The replica that lives on. */
  let survivor: Service
  /** Those that are to die or to freeze. */
  const struck = new Map<string, Service>()
  /** Whatever starts replicas: none may come up when all is over. */
  const begun: Array<Promise<void>> = []
  const workers: Array<SampleWorker> = []
  const calls = new Map<string, { readonly join: JoinEvent; manner: Manner; readonly got: Array<Received> }>()

  const agentJoins = async ({ room }: JoinEvent, identity: string, isTold: boolean) => {
    const { sid } = stage.livekit.addParticipant(room.name, { identity, kind: "AGENT" })
    if (!isTold) return
    const participant = { sid, identity, kind: "AGENT", joinedAtMs: String(Date.now()) }
    const told = await ring(survivor, { ...joinEvent({ participant }), room })
    expect(told.status).toBe(200)
  }

  const onDispatch =
    (worker: SampleWorker) =>
    async ({ body }: SeenDispatch, response: ServerResponse) => {
      const call = calls.get(body["call_id"] ?? "")
      if (call === undefined) throw new Error(`a worker got a call that nobody made: ${body["call_id"]}`)
      const { got, join, manner } = call
      const asked = stage.asked(join, "ListParticipants").length
      got.push({ worker: worker.name, asked, present: stage.agentsIn(join).length })
      // Whoever comes to the rescue does as it should.
      call.manner = {}
      if (manner.joins !== false) await agentJoins(join, `agent-${worker.name}`, manner.joins === "told")
      await manner.answers
      respond(200, { ok: true, worker: worker.name })(undefined as never, response)
    }

  const fleetIs = (...members: ReadonlyArray<SampleWorker>) =>
    stage.database.query("UPDATE system_settings SET value = $1 WHERE key = 'core_fleet'", [
      JSON.stringify(members.map(({ url }) => url)),
    ])

  const areUp = ({ url }: Service, ...members: ReadonlyArray<SampleWorker>) =>
    eventually(`${members.length} workers are up`, async () => {
      const text = await (await fetch(`${url}/metrics`)).text()
      const up = [...text.matchAll(/^switchhook_worker_up\{([^}]*)\} 1/gm)].map(([, labels]) => labels ?? "")
      const port = (worker: SampleWorker) => new URL(worker.url).port
      return (
        up.length === members.length && members.every((one) => up.some((label) => label.includes(port(one))))
      )
    })

  const newCallId = () => `SCL_${crypto.randomUUID()}`
  const call = (manner: Manner = {}, dialed: string = numbers.fleet, callId = newCallId()) => {
    const join = stage.arrive(dialed, { callId })
    calls.set(callId, { join, manner, got: [] })
    return join
  }
  const got = (join: JoinEvent) => calls.get(callIdOf(join))?.got ?? []

  const rowOf = async (join: JoinEvent) =>
    (
      await stage.database.query<{ state: string }>("SELECT state FROM calls WHERE sip_call_id = $1", [
        callIdOf(join),
      ])
    )[0]
  const becomes = (join: JoinEvent, ...states: ReadonlyArray<string>) =>
    eventually(
      `it is ${states.join(" or ")}`,
      async () => states.includes((await rowOf(join))?.state ?? ""),
      25_000,
    )
  const attempts = (join: JoinEvent) =>
    stage.database.query<Attempt>(
      `SELECT a.target, a.outcome, a.reason, a.rescue FROM dispatch_attempts a JOIN calls c ON c.id = a.call_id
       WHERE c.sip_call_id = $1 ORDER BY a.attempt`,
      [callIdOf(join)],
    )

  const ready = (service: Service) =>
    eventually("ready", async () => (await service.get("/readyz")).status === 200, 20_000)
  const startedAtOnce = 4
  const startStruck = async (strikes: ReadonlyMap<string, Strike>) => {
    const entries = [...strikes]
    for (let at = 0; at < entries.length; at += startedAtOnce) {
      const starting = entries.slice(at, at + startedAtOnce).map(async ([name, strike]) => {
        const replica = await stage.replica(failingAt(strike), [failpointsModule])
        struck.set(name, replica)
        await ready(replica)
      })
      await Promise.all(starting)
    }
  }
  const frozenFirst = (frozen: Service) => {
    const rest = [frozen]
    return () => rest.pop() ?? survivor
  }

  /** Nobody was called twice but by a rescue, nor beside somebody who was with the caller. */
  const wasHandedOverOnce = async (join: JoinEvent, times: number) => {
    const received = got(join)
    expect(received.map(({ present }) => present)).toEqual(received.map(() => 0))
    expect(received).toHaveLength(times)
    const isRescue = (await attempts(join)).some(({ rescue }) => rescue)
    if (isRescue) expect(received.at(-1)?.asked ?? 0).toBeGreaterThan(0)
    // However late LiveKit comes again.
    expect(await ring(survivor, join)).toMatchObject({ status: 200, replayed: true })
    expect(got(join)).toHaveLength(times)
  }

  beforeAll(async () => {
    // Whoever is struck has a setting of its own, and the module that reads it.
    const ofNoEffect = failingAt({ point: "received", how: "kill" })
    stage = await startAgentStage(runtime, { ANSWER_WITHIN: "5 s", ...ofNoEffect })
    survivor = stage.service
    workers.push(stage.worker, await startWorker())
    for (const worker of workers) worker.behaviour.dispatch = onDispatch(worker)
    await fleetIs(...workers)
    await areUp(survivor, ...workers)
  })
  afterAll(async () => {
    await Promise.allSettled(begun)
    for (const { process } of struck.values()) signal(process, "SIGCONT")
    await stage.stop()
    await Promise.all(workers.map((worker) => worker.stop()))
  }, 120_000)

  interface Kill {
    readonly point: Failpoint
    readonly dialed?: string
    readonly manner?: Manner
    /** What the dead replica leaves behind: its attempts, and how often a worker got the call. */
    readonly leaves: readonly [attempts: ReadonlyArray<object>, got: number]
    /** What there is in the end. */
    readonly ends: readonly [attempts: ReadonlyArray<object>, got: number]
  }
  const afterFailover = "after a failover"
  const never = new Promise<void>(() => {})
  const unclaimed = { leaves: [[], 0], ends: [[accepted], 1] } as const
  const refused = { outcome: "not-sent", reason: "refused", rescue: false }
  const kills: Readonly<Record<string, Kill>> = {
    "before anything is verified": { point: "received", ...unclaimed },
    "once it is verified": { point: "verified", ...unclaimed },
    "once it is recorded": { point: "recorded", ...unclaimed },
    "before the claim": { point: "selected", ...unclaimed },
    "once it is claimed": { point: "claimed", leaves: [[lost], 0], ends: [[lost, rescued], 1] },
    "before the first byte": { point: "connected", leaves: [[lost], 0], ends: [[lost, rescued], 1] },
    [afterFailover]: {
      point: "moved",
      leaves: [[refused, lost], 0],
      ends: [[refused, lost, rescued], 1],
    },
    "before the answer of a worker that has the call": {
      point: "sent",
      manner: { answers: never },
      leaves: [[lost], 1],
      ends: [[lost], 1],
    },
    "before the answer of a worker that has lost the call": {
      point: "sent",
      manner: { answers: never, joins: false },
      leaves: [[lost], 1],
      ends: [[lost, rescued], 2],
    },
    "before the outcome is stored": { point: "answered", leaves: [[lost], 1], ends: [[lost], 1] },
    "before the outcome is stored, and LiveKit tells who has joined": {
      point: "answered",
      manner: { joins: "told" },
      leaves: [[lost], 1],
      ends: [[lost], 1],
    },
    "before the sender is told": { point: "stored", leaves: [[accepted], 1], ends: [[accepted], 1] },
    "after all": { point: "replied", leaves: [[accepted], 1], ends: [[accepted], 1] },
    "before an agent is dispatched": {
      point: "connected",
      dialed: numbers.agent,
      leaves: [[{ ...lost, target: "agent" }], 0],
      ends: [
        [
          { ...lost, target: "agent" },
          { ...rescued, target: "fleet" },
        ],
        1,
      ],
    },
    "once an agent is dispatched": {
      point: "answered",
      dialed: numbers.agent,
      leaves: [[{ ...lost, target: "agent" }], 0],
      ends: [[{ ...lost, target: "agent" }], 0],
    },
  }

  /** What became of each; they are played side by side, as nearly all of it is waiting. */
  const played = new Map<string, Promise<{ join: JoinEvent; tries: ReadonlyArray<Try> }>>()

  const play = async ({ leaves }: Kill, doomed: Service, join: JoinEvent, firstTry: Promise<Try>) => {
    const looked = (async () => {
      expect(await doomed.exited).toBe(null)
      const [made, times] = leaves
      expect(await attempts(join)).toMatchObject(made)
      expect(got(join)).toHaveLength(times)
    })()
    const tries = await deliver(
      join,
      async () => {
        await looked
        return survivor
      },
      firstTry,
    )
    await looked
    await becomes(join, "accepted")
    return { join, tries }
  }

  /** The worker that this replica likes best is gone when the call comes, which it finds out by it. */
  const loseWorker = async (doomed: Service) => {
    const busy = workers[0]!
    const usual = busy.behaviour.health
    busy.behaviour.health = { status: 200, body: { active_calls: 50, max_calls: 100 } }
    const going = await startWorker()
    await fleetIs(going, busy)
    while (true) {
      await areUp(doomed, going, busy)
      await going.stop()
      const join = call()
      if ((await tryOnce(join, doomed)) === undefined) {
        busy.behaviour.health = usual
        await fleetIs(...workers)
        return join
      }
      // A probe was there first.
      await going.restart()
    }
  }

  const afterClaim = "after the claim, and back before a rescue: it sends nothing more"
  const beforeFirstByte = "before the first byte, and back after the rescue: its late answers count"
  const frozenOnes = [afterClaim, beforeFirstByte]
  const frozen = new Map<string, Promise<void>>()
  const thaw = (replica: Service) => signal(replica.process, "SIGCONT")

  const freezeAfterClaim = async (replica: Service, callId: string) => {
    const join = call({}, numbers.fleet, callId)
    const delivered = deliver(join, frozenFirst(replica))
    // Uncertain it is only until its rescue, which may be all that we see.
    await becomes(join, "uncertain", "accepted")
    thaw(replica)
    const tries = await delivered
    await becomes(join, "accepted")
    expect(tries[0]).toMatchObject({ status: 502 })
    expect(tries.at(-1)).toMatchObject({ status: 200 })
    // A slow machine may be back only after the rescue.
    expect(await attempts(join)).toMatchObject([unsent, { outcome: "accepted" }])
    await wasHandedOverOnce(join, 1)
  }

  const freezeBeforeFirstByte = async (replica: Service, callId: string) => {
    const answered = Promise.withResolvers<void>()
    const asked = call({ answers: answered.promise })
    const begunAt = performance.now()
    const first = deliver(asked, () => replica)
    await eventually("a worker has it", () => got(asked).length === 1)
    const join = call({}, numbers.fleet, callId)
    const delivered = deliver(join, frozenFirst(replica))
    await eventually("it is claimed", async () => (await rowOf(join))?.state === "handing")
    answered.resolve()
    await becomes(join, "accepted")
    await becomes(asked, "accepted")
    expect(got(join)).toHaveLength(1)
    thaw(replica)
    const thawedAfterMs = performance.now() - begunAt
    const [tries, [late]] = await Promise.all([delivered, first])
    expect(tries[0]).toMatchObject({ status: 502 })
    expect(tries.at(-1)).toMatchObject({ status: 200, replayed: true })
    expect(await attempts(join)).toMatchObject([unsent, rescued])
    // An answer has 10 s; after that the replica may have stopped waiting before it reads it.
    if (thawedAfterMs > 9_000 && late?.status === 502) {
      expect(await attempts(asked)).toMatchObject([{ outcome: "ambiguous", rescue: false }])
    } else {
      expect(late).toMatchObject({ status: 200, replayed: false })
      expect(await attempts(asked)).toMatchObject([accepted])
    }
    await wasHandedOverOnce(join, 1)
    await wasHandedOverOnce(asked, 1)
    // And it goes on working.
    const next = call()
    expect(await ring(replica, next)).toMatchObject({ status: 200, replayed: false })
    await wasHandedOverOnce(next, 1)
  }

  const everyMs = 70
  // A balancer hears a little later than the process that it is to go.
  const balancerHearsAfterMs = 1_000
  let replaced: Promise<void>

  const replaceUnderLoad = async () => {
    const balanced: Array<Service> = await Promise.all([stage.replica(), stage.replica()])
    await Promise.all(balanced.map(ready))
    let turn = 0
    const next = () => balanced[turn++ % balanced.length]!
    const delivered: Array<Promise<{ join: JoinEvent; tries: ReadonlyArray<Try> }>> = []
    const comeIn = () => {
      const join = call({ answers: sleep(300) })
      delivered.push(deliver(join, next).then((tries) => ({ join, tries })))
    }
    const load = setInterval(comeIn, everyMs)

    const replace = async (old: Service) => {
      const answered = Promise.withResolvers<void>()
      const inFlight = call({ answers: answered.promise })
      const answer = ring(old, inFlight)
      await eventually("a worker has it", () => got(inFlight).length === 1)
      const gone = old.stop("SIGTERM")
      const started = stage.replica()
      await sleep(balancerHearsAfterMs)
      balanced.splice(balanced.indexOf(old), 1)
      answered.resolve()
      const fresh = await started
      await ready(fresh)
      balanced.push(fresh)
      expect(await answer).toMatchObject({ status: 200, replayed: false })
      expect(await gone).toBe(0)
      await wasHandedOverOnce(inFlight, 1)
    }
    for (const old of [...balanced]) {
      await sleep(1_000)
      await replace(old)
    }
    await sleep(1_000)
    clearInterval(load)

    const all = await Promise.all(delivered)
    expect(all.length).toBeGreaterThan(50)
    expect(all.map(({ tries }) => tries.at(-1)?.status).filter((status) => status !== 200)).toEqual([])
    expect(all.map(({ join }) => got(join).length).filter((times) => times !== 1)).toEqual([])
    const ids = all.map(({ join }) => callIdOf(join))
    const states = await stage.database.query<{ state: string; attempts: number; calls: number }>(
      `SELECT state, attempts, count(*)::integer AS calls FROM calls WHERE sip_call_id = ANY ($1)
         GROUP BY state, attempts`,
      [ids],
    )
    expect(states).toEqual([{ state: "accepted", attempts: 1, calls: all.length }])
  }

  /** A replica that is told to go while it asks LiveKit about a call; what is stored of the call then. */
  const goWhileLooking = async () => {
    const own = await startAgentStage(runtime, { ANSWER_WITHIN: "5 s" })
    try {
      own.worker.behaviour.dispatch = hangUp
      const join = own.arrive(numbers.fleet)
      expect((await ring(own.service, join)).status).toBe(502)
      own.livekit.addParticipant(join.room.name, { identity: "agent", kind: "AGENT" })
      const asked = Promise.withResolvers<void>()
      const released = Promise.withResolvers<void>()
      own.behave(join, "ListParticipants", async (work, response) => {
        asked.resolve()
        await released.promise
        await asUsual(work, response)
      })
      await asked.promise
      const exited = own.service.stop("SIGTERM")
      await eventually("it is going", () =>
        own.service.log.some(({ message }) => message === "Shutting down: finishing what is in flight"),
      )
      released.resolve()
      expect(await exited).toBe(0)
      return await own.row(join)
    } finally {
      await own.stop()
    }
  }

  const strikeAll = async () => {
    // Each over a call of its own: not over another's, when it comes to the rescue of that.
    const callIds = new Map([...Object.keys(kills), ...frozenOnes].map((name) => [name, newCallId()]))
    const callIdFor = (name: string) => callIds.get(name)!
    const strikes = new Map<string, Strike>(
      Object.entries(kills).map(([name, { point }]) => [
        name,
        { point, how: "kill", callId: callIdFor(name) },
      ]),
    )
    // Which call that will be shows only when it moves.
    strikes.set(afterFailover, { point: "moved", how: "kill" })
    strikes.set(afterClaim, { point: "claimed", how: "stop", callId: callIdFor(afterClaim) })
    strikes.set(beforeFirstByte, { point: "connected", how: "stop", callId: callIdFor(beforeFirstByte) })
    await startStruck(strikes)
    const failingOver = struck.get(afterFailover)!
    const unlucky = await loseWorker(failingOver)
    played.set(afterFailover, play(kills[afterFailover]!, failingOver, unlucky, Promise.resolve(undefined)))
    const living = [...struck.values()].filter((one) => one !== failingOver)
    await Promise.all([survivor, ...living].map((one) => areUp(one, ...workers)))
    frozen.set(afterClaim, freezeAfterClaim(struck.get(afterClaim)!, callIdFor(afterClaim)))
    frozen.set(
      beforeFirstByte,
      freezeBeforeFirstByte(struck.get(beforeFirstByte)!, callIdFor(beforeFirstByte)),
    )
    for (const [name, one] of struck) {
      const kill = kills[name]
      if (kill === undefined || one === failingOver) continue
      const join = call(kill.manner, kill.dialed, callIdFor(name))
      played.set(name, play(kill, one, join, tryOnce(join, one)))
    }
    replaced = replaceUnderLoad()
    begun.push(replaced)
    for (const result of [...played.values(), ...frozen.values(), replaced]) result.catch(() => {})
  }

  beforeAll(async () => {
    const struck = strikeAll()
    begun.push(struck)
    await struck
  }, 120_000)

  it.each(Object.keys(kills))("killed %s", async (name) => {
    const { ends, point } = kills[name]!
    const { join, tries } = await played.get(name)!
    const [made, times] = ends
    expect(await attempts(join)).toMatchObject(made)
    await wasHandedOverOnce(join, times)
    // An answer that has left may have arrived.
    if (point !== "replied") expect(tries[0]).toBe(undefined)
    expect(tries.at(-1)?.status).toBe(200)
  })

  it("killed before the claim: LiveKit's first retry hands the call over", async () => {
    for (const name of Object.keys(kills).filter((name) => kills[name]!.leaves === unclaimed.leaves)) {
      const { tries } = await played.get(name)!
      expect(tries).toMatchObject([undefined, { status: 200, replayed: false }])
    }
  })

  it("killed after the agent was dispatched it is not dispatched again", async () => {
    const dispatched = async (name: string) => stage.dispatched((await played.get(name)!).join).length
    expect(await dispatched("before an agent is dispatched")).toBe(0)
    expect(await dispatched("once an agent is dispatched")).toBe(1)
  })

  it.each(frozenOnes)("frozen for longer than the lease %s", (name) => frozen.get(name))

  it("a service that was started without the module is never struck, whatever its environment says", () => {
    expect([survivor.process.exitCode, survivor.process.signalCode]).toEqual([null, null])
  })

  it("replaced one after the other under load: every call is handed over once, and answered by whoever had it", () =>
    replaced)

  it("told to go while it looks after a call: it finishes that first", { timeout: 150_000 }, async () => {
    let row = await goWhileLooking()
    // LiveKit has 2 s to answer, whatever holds the replica or us up meanwhile.
    for (let time = 1; time < 3 && row.state !== "accepted"; time++) row = await goWhileLooking()
    expect(row).toMatchObject({ state: "accepted", status: "active" })
  })
})
