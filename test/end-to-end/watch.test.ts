// The watch: calls that LiveKit has given up, that nobody knows the end of, or that nobody joins.

import { beforeAll, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import {
  type AgentStage,
  agents,
  askForAgent,
  callIdOf,
  numbers,
  rejoinOf,
  ring,
  roomStarted,
  startAgentStage,
} from "../support/agent-stage.ts"
import type { JoinEvent } from "../support/events.ts"
import { failingAt, failpointsModule } from "../support/failpoints.ts"
import { refusePlainly } from "../support/livekit-api.ts"
import { runtimes } from "../support/processes.ts"
import type { Service } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { hangUp, seenByCall, startWorker } from "../support/workers.ts"

const answerWithinMs = 5_000

/** Rings until a worker has got the call: one that has just missed two probes gets none. */
const untilSent = (service: Service, join: JoinEvent) =>
  eventually("a worker has got it", async () => (await ring(service, join)).status !== 503)

describe.each(runtimes)("the watch on %s", (runtime) => {
  let stage: AgentStage
  let other: SampleWorker

  beforeAll(async () => {
    other = await startWorker("the other worker")
    stage = await startAgentStage(runtime, { ANSWER_WITHIN: "5 s" })
    await stage.database.query("UPDATE system_settings SET value = $1 WHERE key = 'core_fleet'", [
      JSON.stringify([stage.worker.url, other.url]),
    ])
    await stage.replica()
    await fleetIs(2)
    return async () => {
      await stage.stop()
      await other.stop()
    }
  })

  /** Waits until every replica has so many workers that are up. */
  const fleetIs = (count: number) =>
    eventually(`${count} workers are up`, async () => {
      const response = await fetch(`${stage.service.url}/metrics`)
      const up = (await response.text()).matchAll(/^switchhook_worker_up\{[^}]*\} (\d)/gm)
      return [...up].filter(([, value]) => value === "1").length === count
    })

  const seenOf = ({ participant }: JoinEvent) => {
    const id = participant.attributes["sip.callID"]
    return [stage.worker, other].map(
      (worker) => worker.seen.filter(({ body }) => body["call_id"] === id).length,
    )
  }
  const handedOver = (join: JoinEvent) => seenOf(join).reduce((sum, count) => sum + count, 0)
  const rowOf = async (join: JoinEvent) =>
    (
      await stage.database.query<{
        state: string
        status: string
        unanswered: boolean
        rescues: number
        watched: boolean
      }>(
        `SELECT state, status, unanswered_at IS NOT NULL AS unanswered, rescues, watch_at IS NOT NULL AS watched
         FROM calls WHERE sip_call_id = $1`,
        [join.participant.attributes["sip.callID"]],
      )
    )[0]
  const agentJoins = ({ room }: JoinEvent, joinedAtMs = Date.now()) =>
    stage.livekit.addParticipant(room.name, {
      identity: `agent-${room.sid}`,
      kind: "AGENT",
      joinedAtMs,
      attributes: {},
    })
  const leaves = ({ participant, room }: JoinEvent) =>
    stage.livekit.removeParticipant(room.name, participant.identity)

  const asUsual = () => {
    for (const worker of [stage.worker, other])
      worker.behaviour.dispatch = respond(200, { ok: true, worker: worker.name })
  }

  /** A call whose worker takes the request, and drops the connection after what happens meanwhile. */
  const uncertain = async (meanwhile: (join: JoinEvent) => unknown = () => {}) => {
    await fleetIs(2)
    const join = stage.arrive(numbers.fleet)
    for (const worker of [stage.worker, other])
      worker.behaviour.dispatch = async (request, response) => {
        // This call may get its other worker already, or an earlier one.
        if (request.body["call_id"] !== callIdOf(join) || handedOver(join) > 1)
          return respond(200, { ok: true, worker: worker.name })(request, response)
        await meanwhile(join)
        hangUp(request, response)
      }
    await untilSent(stage.service, join)
    await eventually(
      "nobody knows the end of it",
      async () => (await stage.attempts(join))[0]?.outcome === "ambiguous",
    )
    asUsual()
    // Or the breakers would take both workers out.
    for (let call = 0; call < 4; call++) await ring(stage.service, stage.arrive(numbers.fleet))
    return join
  }

  describe("while no worker is there", () => {
    it("keeps the calls that rang, and hands each over once when one returns, to callers who are still there", async () => {
      await Promise.all([stage.worker.stop(), other.stop()])
      await fleetIs(0)
      const joins = Array.from({ length: 5 }, () => stage.arrive(numbers.fleet))
      for (const join of joins) expect((await ring(stage.service, join)).status).toBe(503)
      const [gone, ...there] = joins
      leaves(gone!)
      await Promise.all([stage.worker.restart(), other.restart()])
      await eventually("all are handed over", () => there.every((join) => handedOver(join) === 1))
      await eventually(
        "the one who left is known to have",
        async () => (await rowOf(gone!))?.status === "missed",
      )
      expect(there.map(handedOver)).toEqual([1, 1, 1, 1])
      expect(handedOver(gone!)).toBe(0)
      for (const join of there) {
        await eventually("that is stored", async () => (await rowOf(join))?.state === "accepted")
        expect(await rowOf(join)).toMatchObject({ status: "ringing" })
        // LiveKit's own retry, however late, gets the stored answer.
        expect(await ring(stage.service, join)).toMatchObject({ status: 200, replayed: true })
      }
    })
  })

  describe("of a call that nobody knows the end of", () => {
    let alone: JoinEvent
    let joined: JoinEvent
    let gone: JoinEvent
    let haunted: JoinEvent

    beforeAll(async () => {
      alone = await uncertain()
      joined = await uncertain(agentJoins)
      gone = await uncertain(leaves)
      haunted = await uncertain(async (join) => {
        const now = Date.now()
        agentJoins(join, now - 60_000)
        for (const at of [now - 120_000, now - 1_000]) await ring(stage.service, roomStarted(join, at))
        leaves(join)
        stage.enter(rejoinOf(join, now))
      })
    })

    const becomes = (join: JoinEvent, expected: object) =>
      eventually(`it is ${JSON.stringify(expected)}`, async () => {
        const row = new Map(Object.entries((await rowOf(join)) ?? {}))
        return Object.entries(expected).every(([name, value]) => row.get(name) === value)
      })

    it("asks LiveKit who is there: alone, the caller gets another worker, once", async () => {
      const [first] = await stage.attempts(alone)
      await becomes(alone, { state: "accepted", rescues: 1 })
      const attempts = await stage.attempts(alone)
      expect(attempts.map(({ outcome }) => outcome)).toEqual(["ambiguous", "accepted"])
      expect(attempts[1]?.worker_url).not.toBe(first?.worker_url)
      expect(seenOf(alone)).toEqual([1, 1])
      expect(await ring(stage.service, alone)).toMatchObject({
        status: 200,
        replayed: true,
        body: { ok: true },
      })
      expect(handedOver(alone)).toBe(2)
    })

    it("leaves it to whoever has joined, though the webhook was lost", async () => {
      await becomes(joined, { state: "accepted", status: "active", rescues: 0, watched: false })
      expect(handedOver(joined)).toBe(1)
    })

    it("lets a caller go who has left, though the webhook was lost", async () => {
      await becomes(gone, { state: "uncertain", status: "missed", rescues: 0, watched: false })
      expect(handedOver(gone)).toBe(1)
    })

    it("does not take the ghosts of a LiveKit that crashed for answerers", async () => {
      await eventually("it is rescued", () => handedOver(haunted) === 2)
    })

    it("rescues nobody while LiveKit is silent, and goes on when it answers", async () => {
      const join = await uncertain((rung) => stage.behave(rung, "ListParticipants", refusePlainly(503)))
      await sleep(answerWithinMs + 3_000)
      expect(handedOver(join)).toBe(1)
      expect(await rowOf(join)).toMatchObject({ state: "uncertain", watched: true })
      stage.behave(join, "ListParticipants")
      await eventually("it is rescued", () => handedOver(join) === 2)
    })

    it("comes to it where the process died over the hand-over", async () => {
      const replica = await stage.replica()
      await eventually("ready", async () => (await replica.get("/readyz")).status === 200)
      const begun = Promise.withResolvers<void>()
      for (const worker of [stage.worker, other]) worker.behaviour.dispatch = () => begun.resolve()
      const join = stage.arrive(numbers.fleet)
      const lost = ring(replica, join).catch(() => undefined)
      await begun.promise
      await replica.stop("SIGKILL")
      await lost
      asUsual()
      await eventually("its lease has lapsed", async () => {
        const [attempt] = await stage.database.query<{ lapsed: boolean }>(
          `SELECT a.lapsed FROM dispatch_attempts a JOIN calls c ON c.id = a.call_id
           WHERE c.sip_call_id = $1 AND a.attempt = 1`,
          [callIdOf(join)],
        )
        return attempt?.lapsed
      })
      await eventually("it is rescued", async () => (await rowOf(join))?.state === "accepted")
      expect(seenOf(join)).toEqual([1, 1])
    })
  })

  it("tells once, by whichever replica, of a call that a worker took and nobody joined", async () => {
    await fleetIs(2)
    const [forlorn, answered] = [stage.arrive(numbers.fleet), stage.arrive(numbers.fleet)]
    for (const worker of [stage.worker, other])
      worker.behaviour.dispatch = (request, response) => {
        if (request.body["call_id"] === callIdOf(answered)) agentJoins(answered)
        respond(200, { ok: true })(request, response)
      }
    for (const join of [forlorn, answered]) expect((await ring(stage.service, join)).status).toBe(200)
    asUsual()
    // Somebody asked for an agent, and the caller's join was never told.
    const asked = `asked-${forlorn.id}`
    await askForAgent(stage.service, {
      call_id: asked,
      from_number: "+15550001111",
      to_number: numbers.agent,
    })
    const rowsOfAsked = () =>
      stage.database.query<{ told: boolean; watch_at: unknown }>(
        "SELECT state, status, unanswered_at IS NOT NULL AS told, watch_at FROM calls WHERE asked_id = $1",
        [asked],
      )
    await eventually("all is told, and nothing watched any longer", async () => {
      const rows = [await rowOf(forlorn), await rowOf(answered)]
      const [row] = await rowsOfAsked()
      return (
        rows[0]?.unanswered === true &&
        rows[1]?.status === "active" &&
        rows.every((one) => one?.watched === false) &&
        row?.told === true &&
        row.watch_at === null
      )
    })
    // Whoever were to tell it again would do so now.
    await sleep(2_000)
    expect(await rowOf(forlorn)).toMatchObject({ state: "accepted", rescues: 0, watched: false })
    expect(await rowOf(answered)).toMatchObject({ status: "active", watched: false })
    expect([forlorn, answered].map(handedOver)).toEqual([1, 1])
    expect(await rowsOfAsked()).toEqual([
      { state: "accepted", status: "ringing", told: true, watch_at: null },
    ])
    const id = forlorn.participant.attributes["sip.callID"] ?? ""
    const told = stage
      .output()
      .split("\n")
      .filter((line) => line.includes("Call unanswered") && line.includes(id))
    expect(told).toHaveLength(1)
  })

  it("closes a room whose end was never told, and with it the call", async () => {
    await fleetIs(2)
    const join = stage.arrive(numbers.fleet)
    expect((await ring(stage.service, join)).status).toBe(200)
    // Or the watch would find by itself that the caller has left.
    await stage.database.query("UPDATE calls SET watch_at = NULL WHERE sip_call_id = $1", [callIdOf(join)])
    // Before the room is due: once it was seen it is not looked at for another minute.
    stage.livekit.endRoom(join.room.name)
    await stage.database.query(
      "UPDATE sessions SET created_at = created_at - interval '2 minutes' WHERE room_sid = $1",
      [join.room.sid],
    )
    await eventually(
      "it is closed",
      async () => {
        const [room] = await stage.database.query<{ status: string }>(
          "SELECT status FROM sessions WHERE room_sid = $1",
          [join.room.sid],
        )
        return room?.status === "stopped" && (await rowOf(join))?.status === "missed"
      },
      120_000,
    )
  }, 150_000)

  it("a delivery of a known call asks LiveKit first, and a caller who has left gets nobody", async () => {
    await Promise.all([stage.worker.stop(), other.stop()])
    await fleetIs(0)
    const join = stage.arrive(numbers.fleet)
    expect((await ring(stage.service, join)).status).toBe(503)
    leaves(join)
    await Promise.all([stage.worker.restart(), other.restart()])
    await eventually("LiveKit's retry hears it", async () => {
      const { body, status } = await ring(stage.service, join)
      return status === 200 && (body as { outcome?: string }).outcome === "left"
    })
    expect(handedOver(join)).toBe(0)
    await fleetIs(2)
  })
})

it("a rescue whose process dies over it does not count: the next replica comes to it again", async () => {
  const stage = await startAgentStage(runtimes[0]!, { ANSWER_WITHIN: "5", FALLBACK_AGENT: agents.fallback })
  try {
    stage.worker.behaviour.dispatch = hangUp
    const join = stage.arrive(numbers.fleet)
    expect((await ring(stage.service, join)).status).toBe(502)
    await stage.service.stop()
    const dying = await stage.replica(failingAt({ point: "claimed", how: "kill" }), [failpointsModule])
    await dying.exited
    const [ambiguous, unknown] = [
      { target: "fleet", outcome: "ambiguous" },
      { target: "agent", outcome: null },
    ]
    expect(await stage.attempts(join)).toMatchObject([ambiguous, unknown])
    expect(stage.dispatched(join)).toEqual([])
    await stage.replica()
    await eventually("it is rescued", () => stage.agentsIn(join).includes(agents.fallback), 25_000)
    await eventually("that is stored", async () => (await stage.row(join)).state === "accepted")
    const accepted = { target: "agent", worker: agents.fallback, outcome: "accepted" }
    expect(await stage.attempts(join)).toMatchObject([ambiguous, unknown, accepted])
    expect(stage.dispatched(join)).toHaveLength(1)
  } finally {
    await stage.stop()
  }
}, 60_000)

it("a worker that hangs over one call keeps the watch from no other", async () => {
  const second = await startWorker("the second worker")
  const stage = await startAgentStage(runtimes[0]!, { ANSWER_WITHIN: "5" })
  try {
    const workers = [stage.worker, second]
    await stage.database.query("UPDATE system_settings SET value = $1 WHERE key = 'core_fleet'", [
      JSON.stringify(workers.map(({ url }) => url)),
    ])
    await eventually("both are up", async () =>
      /worker_up\{[^}]*\} 1\n.*worker_up\{[^}]*\} 1$/m.test((await stage.service.get("/metrics")).text),
    )
    const [hanging, next] = [stage.arrive(numbers.fleet), stage.arrive(numbers.fleet)]
    for (const worker of workers)
      worker.behaviour.dispatch = (request, response) => {
        const callId = request.body["call_id"] ?? ""
        if (seenByCall(...workers).get(callId) === 1) hangUp(request, response)
        else if (callId !== callIdOf(hanging)) respond(200, { ok: true })(request, response)
      }
    await untilSent(stage.service, hanging)
    await sleep(1_500)
    await untilSent(stage.service, next)
    // Of each the attempt to rescue it; that of the one that hangs may have ended by the time of this look.
    const rescues = await eventually("both are looked after", async () => {
      const [both] = await stage.database.query<{ outcome: string | null; beside: boolean }>(
        `SELECT n.outcome, n.started_at < coalesce(h.ended_at, 'infinity') AS beside
         FROM dispatch_attempts n JOIN calls c ON c.id = n.call_id, dispatch_attempts h JOIN calls d ON d.id = h.call_id
         WHERE c.sip_call_id = $1 AND d.sip_call_id = $2 AND n.attempt = 2 AND h.attempt = 2`,
        [callIdOf(next), callIdOf(hanging)],
      )
      return both?.outcome && both
    })
    expect(rescues).toEqual({ outcome: "accepted", beside: true })
  } finally {
    await Promise.all([stage.worker.stop(), second.stop()])
    await stage.stop()
  }
}, 60_000)

describe("RESCUE=all", () => {
  it("gives a call that a worker took and nobody joined to somebody else, here the fallback agent, once", async () => {
    const env = { ANSWER_WITHIN: "5", RESCUE: "all", FALLBACK_AGENT: agents.fallback }
    const stage = await startAgentStage(runtimes[0]!, env)
    try {
      const join = stage.arrive(numbers.fleet)
      expect((await ring(stage.service, join)).status).toBe(200)
      await eventually("the agent is there", () => stage.agentsIn(join).includes(agents.fallback))
      await eventually("it is stored", async () =>
        (await stage.attempts(join)).every(({ outcome }) => outcome),
      )
      expect(await stage.attempts(join)).toMatchObject([
        { target: "fleet", outcome: "accepted" },
        { target: "agent", worker: agents.fallback, outcome: "accepted" },
      ])
      // The first answer stays.
      expect(await ring(stage.service, join)).toMatchObject({
        status: 200,
        replayed: true,
        body: { ok: true, worker: stage.worker.name },
      })
      await sleep(3_000)
      expect(stage.dispatched(join)).toHaveLength(1)
    } finally {
      await stage.stop()
    }
  })
})
