// FALLBACK_AGENT: who answers where the fleet does not, and only where no worker was ever sent the call.

import pg from "pg"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import {
  type AgentStage,
  agents,
  askForAgent,
  callerOf,
  callIdOf,
  numbers,
  problem,
  ring,
  startAgentStage,
  unspeakable,
} from "../support/agent-stage.ts"
import type { JoinEvent } from "../support/events.ts"
import { dropAfter, refuse } from "../support/livekit-api.ts"
import { ownRuntime, runtimes } from "../support/processes.ts"
import type { Service } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { hangUp } from "../support/workers.ts"

const noFleet = problem(503, "No fleet")
const noHealthyFleet = problem(503, "No healthy fleet")
const noAgent = problem(503, "No agent")
const dispatchFailed = problem(502, "Dispatch failed")

describe.each(runtimes)("the fallback agent on %s", (runtime) => {
  let stage: AgentStage
  /** A replica without a fallback agent. */
  let plain: Service

  beforeAll(async () => {
    stage = await startAgentStage(runtime, { FALLBACK_AGENT: agents.fallback }, { watch: false })
    plain = await stage.replica({ FALLBACK_AGENT: "" })
    await until("up")
  })
  afterAll(() => stage?.stop())

  const first = (event: unknown) => ring(stage.service, event)

  /** Both replicas see the worker so. Whether they are ready would not tell: with a fallback agent they are. */
  const until = async (state: "up" | "down" | "gone") => {
    const shown = { up: "1", down: "0", gone: undefined }[state]
    for (const service of [stage.service, plain]) {
      await eventually(`the worker is ${state}`, async () => {
        const { text } = await service.get("/metrics")
        return /^switchhook_worker_up\{.*\} (\d)$/m.exec(text)?.[1] === shown
      })
    }
  }
  const setFleet = (value: unknown) =>
    stage.database.query("UPDATE system_settings SET value = $1::jsonb WHERE key = 'core_fleet'", [
      JSON.stringify(value),
    ])
  const attempt = (outcome: string | null, status: number | null = null) => ({
    target: "agent",
    worker: agents.fallback,
    worker_url: null,
    outcome,
    status,
  })
  const relay = (outcome: string | null, status: number | null = null) => ({
    target: "fleet",
    worker: expect.any(String),
    worker_url: stage.worker.url,
    outcome,
    status,
  })

  /** The call was answered with the fallback agent, who has joined, and is told so from then on. */
  const expectFallback = async (join: JoinEvent, answer: unknown) => {
    const [dispatch, ...more] = stage.dispatched(join)
    expect(more).toEqual([])
    const expected = {
      status: 200,
      contentType: "application/json",
      body: { ok: true, agent_name: agents.fallback, dispatch_id: dispatch?.id },
    }
    expect(answer).toMatchObject({ ...expected, replayed: false })
    await eventually("the agent has joined", () => stage.agentsIn(join).includes(agents.fallback))
    for (const service of [stage.service, plain]) {
      expect(await ring(service, join)).toMatchObject({ ...expected, replayed: true })
    }
    expect(stage.dispatched(join)).toHaveLength(1)
    expect(await stage.row(join)).toMatchObject({
      state: "accepted",
      outcome: "accepted",
      target: "agent",
      agent_name: agents.fallback,
      worker: null,
      worker_url: null,
      metadata: dispatch?.metadata,
    })
  }

  describe("with a worker that is well", () => {
    it("is not asked", async () => {
      const join = stage.arrive(numbers.fleet)
      expect(await first(join)).toMatchObject({ status: 200, body: { worker: stage.worker.name } })
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
    })

    const usual = () => respond(200, { ok: true, worker: stage.worker.name })
    /** The worker does this with every call, until told otherwise. */
    const behave = (dispatch: SampleWorker["behaviour"]["dispatch"]) => {
      stage.worker.behaviour.dispatch = dispatch
    }
    afterEach(async () => {
      // A good call, or the breaker takes the worker out for the bad ones.
      behave(usual())
      expect((await first(stage.arrive(numbers.fleet))).status).toBe(200)
    })

    /** It stays the worker's: a further delivery is told so, and nobody else is asked. */
    const expectKept = async (join: JoinEvent, state: string, again: object) => {
      expect(await first(join)).toMatchObject({ status: 200, replayed: true, body: again })
      expect(await stage.row(join)).toMatchObject({ state, target: "fleet", agent_name: null })
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
      expect(stage.relayed(join)).toBe(1)
    }

    it.each([
      [429, { error: "busy" }],
      [503, { error: "starting" }],
    ])("does not stand in for a worker that answers %d", async (status, body) => {
      behave(respond(status, body))
      const join = stage.arrive(numbers.fleet)
      expect(await first(join)).toMatchObject({ status, body })
      await expectKept(join, "rejected", { outcome: "rejected", status, body })
    })

    it("does not stand in for a worker that drops the connection", async () => {
      behave(hangUp)
      const join = stage.arrive(numbers.fleet)
      expect(await first(join)).toMatchObject(dispatchFailed)
      await expectKept(join, "uncertain", { outcome: "ambiguous" })
    })

    // It takes 10 s, and each runtime has a run of its own.
    it.runIf(runtime === ownRuntime)("does not stand in for a worker that hangs", async () => {
      behave(() => {})
      const join = stage.arrive(numbers.fleet)
      expect(await first(join)).toMatchObject(dispatchFailed)
      expect(await stage.waitedMs(join)).toBeLessThanOrEqual(10_000)
      await expectKept(join, "uncertain", { outcome: "ambiguous" })
    })

    it("leaves the calls of another agent to that agent", async () => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "CreateDispatch", refuse("unavailable"))
      expect(await first(join)).toMatchObject(noAgent)
      expect(stage.relayed(join)).toBe(0)
      expect(stage.asked(join, "CreateDispatch")).toMatchObject([{ body: { agentName: agents.campaign } }])
      stage.behave(join, "CreateDispatch")
      expect(await first(join)).toMatchObject({ status: 200, body: { agent_name: agents.campaign } })
    })
  })

  describe("with a process that has just started", () => {
    it("does not stand in for a fleet that was not read yet", async () => {
      const client = new pg.Client({ connectionString: stage.database.url })
      await client.connect()
      await client.query("BEGIN")
      await client.query("LOCK TABLE system_settings IN ACCESS EXCLUSIVE MODE")
      const join = stage.arrive(numbers.fleet)
      let started: Service
      try {
        started = await stage.replica()
        // Whether it answers at once or waits for the fleet.
        await Promise.race([ring(started, join), sleep(1_000)])
        expect(stage.asked(join, "CreateDispatch")).toEqual([])
      } finally {
        await client.end()
      }
      const answer = await eventually("a worker has the call", async () => {
        const { body, status } = await ring(started, join)
        return status === 200 ? body : undefined
      })
      expect(answer).toMatchObject({ worker: stage.worker.name })
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
    })
  })

  describe("with a worker that refuses the connection of the hand-over", () => {
    afterEach(async () => {
      await stage.worker.restart().catch(() => {})
      await until("up")
      // Or the breaker would take the worker out for what the tests have done to it.
      expect((await first(stage.arrive(numbers.fleet))).body).toMatchObject({ worker: stage.worker.name })
    })

    /** The worker answers one more probe, and then no connection any more. */
    const vanish = async () => {
      const { behaviour, stop } = stage.worker
      const usual = behaviour.health
      await new Promise<void>((resolve) => {
        behaviour.health = (_, response) => {
          response.end(JSON.stringify({ active_calls: 0 }), () => resolve(stop()))
        }
      })
      behaviour.health = usual
    }
    /** A call that was the first to find the worker gone. Where a probe was, it is tried again. */
    const refusedCall = async (prepare: (join: JoinEvent) => void = () => {}) => {
      for (let round = 0; round < 10; round++) {
        await vanish()
        const join = stage.arrive(numbers.fleet)
        prepare(join)
        const answer = await first(join)
        const [attempted] = await stage.attempts(join)
        if (attempted?.target === "fleet") return { answer, join }
        await stage.worker.restart()
        await until("up")
      }
      throw new Error("the probes were always first")
    }

    it("is dispatched within the same delivery", async () => {
      const { answer, join } = await refusedCall()
      await expectFallback(join, answer)
      expect(await stage.attempts(join)).toEqual([relay("not-sent"), attempt("accepted", 200)])
    })

    it("leaves the call to the next delivery where LiveKit refuses, too", async () => {
      const { answer, join } = await refusedCall((call) =>
        stage.behave(call, "CreateDispatch", refuse("unauthenticated")),
      )
      expect(answer).toMatchObject(noAgent)
      expect(await stage.attempts(join)).toEqual([relay("not-sent"), attempt("not-sent")])
      expect(await stage.row(join)).toMatchObject({ state: "waiting", outcome: "not-sent" })
      await stage.worker.restart()
      await until("up")
      // Or the worker was slow to answer a probe, and the agent is asked once more.
      await eventually("taken", async () => {
        const { body, status } = await first(join)
        return status === 200 && (body as { worker?: string }).worker === stage.worker.name
      })
      const attempts = await stage.attempts(join)
      expect(attempts.at(-1)).toEqual(relay("accepted", 200))
      expect(attempts.slice(0, -1).every(({ outcome }) => outcome === "not-sent")).toBe(true)
      expect(stage.relayed(join)).toBe(1)
    })

    it("leaves the call to nobody where LiveKit may have dispatched it", async () => {
      const { answer, join } = await refusedCall((call) => stage.behave(call, "CreateDispatch", dropAfter))
      expect(answer).toMatchObject(dispatchFailed)
      expect(await stage.attempts(join)).toEqual([relay("not-sent"), attempt("ambiguous")])
      await stage.worker.restart()
      await until("up")
      expect(await first(join)).toMatchObject({
        status: 200,
        body: { ok: true, replayed: true, outcome: "ambiguous" },
      })
      expect(stage.relayed(join)).toBe(0)
      expect(stage.asked(join, "CreateDispatch")).toHaveLength(1)
      expect(await stage.row(join)).toMatchObject({ state: "uncertain", target: "agent" })
    })
  })

  describe("with nobody healthy in the fleet", () => {
    beforeAll(async () => {
      await stage.worker.stop()
      await until("down")
    })

    it("is dispatched, and the row says why", async () => {
      const join = stage.arrive(numbers.fleet)
      await expectFallback(join, await first(join))
      expect(await stage.attempts(join)).toEqual([attempt("accepted", 200)])
      expect((await stage.row(join)).explanation).toMatchObject({
        route: { number: numbers.fleet, target: "fleet" },
        considered: [{ verdict: "skipped", why: expect.any(String) }],
      })
      expect(JSON.parse(stage.dispatched(join)[0]?.metadata ?? "")).toMatchObject({
        phone_number_id: stage.ids.dids[numbers.fleet],
        campaign_id: stage.ids.campaign,
        from_number: callerOf(join),
      })
    })

    it("is the agent that whoever asks is told", async () => {
      const join = stage.arrive(numbers.fleet)
      expect((await first(join)).status).toBe(200)
      const question = { call_id: callIdOf(join), from_number: callerOf(join), to_number: numbers.fleet }
      expect(await askForAgent(stage.service, question)).toMatchObject({
        agent_name: agents.fallback,
        metadata: stage.dispatched(join)[0]?.metadata,
      })
      expect(stage.dispatched(join)).toHaveLength(1)
    })

    it("is missing where it is not set: 503, until a replica has one", async () => {
      const join = stage.arrive(numbers.fleet)
      expect(await ring(plain, join)).toMatchObject(noHealthyFleet)
      expect(await stage.row(join)).toMatchObject({ state: "waiting", target: "fleet", agent_name: null })
      expect(await stage.attempts(join)).toEqual([])
      await expectFallback(join, await first(join))
    })

    it("is not sent after a caller who has left meanwhile", async () => {
      const join = stage.arrive(numbers.fleet)
      expect(await ring(plain, join)).toMatchObject(noHealthyFleet)
      stage.livekit.endRoom(join.room.name)
      const left = { status: 200, replayed: true, body: { ok: true, replayed: true, outcome: "left" } }
      expect(await first(join)).toMatchObject(left)
      expect(await ring(plain, join)).toMatchObject(left)
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
      expect(await stage.row(join)).toMatchObject({ status: "missed" })
    })
  })

  describe("without a fleet", () => {
    beforeAll(async () => {
      await setFleet([])
      await until("gone")
    })

    it.each([numbers.fleet, numbers.tenant, numbers.unknown])("is dispatched for %s", async (dialed) => {
      const join = stage.arrive(dialed)
      await expectFallback(join, await first(join))
      expect((await stage.row(join)).explanation.considered).toEqual([])
    })

    it("is missing where it is not set: 503", async () => {
      const join = stage.arrive(numbers.fleet)
      expect(await ring(plain, join)).toMatchObject(noFleet)
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
      expect(await stage.row(join)).toMatchObject({ state: "waiting", agent_name: null })
    })
  })

  it("after all this, no room was made for an agent alone, and no log says what it may not", async () => {
    expect(stage.livekit.ghostRooms).toEqual([])
    await stage.stopServices()
    const output = stage.output()
    expect(output).toContain("Worker not reached")
    for (const text of unspeakable) expect(output.includes(text), text.slice(0, 6)).toBe(false)
  })
})
