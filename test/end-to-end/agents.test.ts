// Calls that LiveKit's agents answer: each is dispatched once, whatever LiveKit does and however often it is told.

import { AgentDispatchClient } from "livekit-server-sdk"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  type AgentStage,
  agedBy,
  agents,
  askForAgent,
  callerOf,
  callIdOf,
  type Method,
  newCaller,
  numbers,
  problem,
  rejoinOf,
  ring,
  roomStarted,
  startAgentStage,
  unspeakable,
} from "../support/agent-stage.ts"
import { type JoinEvent, leaveOf } from "../support/events.ts"
import {
  answerBody,
  type Behaviour,
  cutOff,
  dropAfter,
  dropBefore,
  hang,
  later,
  refuse,
  refusePlainly,
  workAndHang,
} from "../support/livekit-api.ts"
import { runtimes, signal } from "../support/processes.ts"
import { apiKey, apiSecret, launch, type Service } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"

/** What a first delivery is answered once the agent is dispatched. */
const dispatchedAs = (agent: string, id: unknown) => ({
  status: 200,
  contentType: "application/json",
  retryAfter: null,
  replayed: false,
  body: { ok: true, agent_name: agent, dispatch_id: id },
})

/** What a delivery is answered in place of a hand-over. */
const replayOf = (outcome: "ambiguous" | "left") => ({
  status: 200,
  replayed: true,
  body: { ok: true, replayed: true, outcome },
})

const noAgent = problem(503, "No agent")
const dispatchFailed = problem(502, "Dispatch failed")

// ---- How LiveKit, or what stands before it, refuses

// As LiveKit did until August 2026: whoever logs the answer logs the token.
const echoToken: Behaviour = (work, response) =>
  refusePlainly(401, `invalid token: ${response.req.headers.authorization}`)(work, response)

const comeBackIn =
  (seconds: number, behaviour: Behaviour): Behaviour =>
  (work, response) => {
    response.setHeader("retry-after", String(seconds))
    return behaviour(work, response)
  }

const redirect =
  (status: number, path: string): Behaviour =>
  (_, response) => {
    response.writeHead(status, { location: `http://${response.req.headers.host}${path}` }).end()
  }

// The slow ones first: these tests run side by side.
const failures: ReadonlyArray<readonly [what: string, Method, outcome: "not-sent" | "ambiguous", Behaviour]> =
  [
    ["nothing", "CreateDispatch", "ambiguous", hang],
    ["nothing, having dispatched the agent", "CreateDispatch", "ambiguous", workAndHang],
    ["nothing", "ListParticipants", "not-sent", hang],
    ["nothing", "ListDispatch", "not-sent", hang],
    ["401 with the token", "CreateDispatch", "not-sent", echoToken],
    ["403", "CreateDispatch", "not-sent", refuse("permission_denied")],
    ["404", "CreateDispatch", "not-sent", refuse("not_found")],
    ["408", "CreateDispatch", "ambiguous", refusePlainly(408)],
    ["429 and when to come back", "CreateDispatch", "not-sent", comeBackIn(1, refuse("resource_exhausted"))],
    ["400 invalid_argument", "CreateDispatch", "not-sent", refuse("invalid_argument")],
    ["400 malformed", "CreateDispatch", "ambiguous", refuse("malformed")],
    ["500", "CreateDispatch", "ambiguous", refuse("internal")],
    ["503 unavailable", "CreateDispatch", "not-sent", refuse("unavailable")],
    ["503 of a proxy", "CreateDispatch", "ambiguous", comeBackIn(30, refusePlainly(503, "upstream gone"))],
    ["a redirect without an address", "CreateDispatch", "ambiguous", refusePlainly(302)],
    ["a redirect to a portal", "CreateDispatch", "ambiguous", redirect(302, "/portal")],
    [
      "a redirect to itself",
      "CreateDispatch",
      "ambiguous",
      redirect(307, "/twirp/livekit.AgentDispatchService/CreateDispatch"),
    ],
    ["a dropped connection", "CreateDispatch", "ambiguous", dropBefore],
    ["a dropped connection, having dispatched the agent", "CreateDispatch", "ambiguous", dropAfter],
    ["401 with the token", "ListParticipants", "not-sent", echoToken],
    ["503 unavailable", "ListParticipants", "not-sent", refuse("unavailable")],
    ["an answer that is no JSON", "ListParticipants", "not-sent", answerBody("<html>")],
    ["a dropped connection", "ListParticipants", "not-sent", dropBefore],
    ["500", "ListDispatch", "not-sent", refuse("internal")],
    ["429 and when to come back", "ListDispatch", "not-sent", comeBackIn(1, refusePlainly(429))],
    ["a dropped connection", "ListDispatch", "not-sent", dropAfter],
  ]

describe.each(runtimes)("agents on %s", (runtime) => {
  let stage: AgentStage
  let other: Service

  beforeAll(async () => {
    stage = await startAgentStage(runtime, { INBOUND_TARGET: "agent" }, { watch: false })
    other = await stage.replica()
    await eventually("ready", async () => (await other.get("/readyz")).status === 200)
  })
  afterAll(() => stage?.stop())

  const first = (event: unknown) => ring(stage.service, event)
  const joined = (join: JoinEvent, agent: string) =>
    eventually("the agent has joined", () => stage.agentsIn(join).includes(agent))

  /** The call is the agent's, was dispatched once, and any further delivery gets the first one's answer. */
  const expectDispatchedOnce = async (join: JoinEvent, agent: string) => {
    await joined(join, agent)
    expect(stage.agentsIn(join)).toEqual([agent])
    const dispatches = stage.dispatched(join)
    expect(dispatches.map(({ agentName }) => agentName)).toEqual([agent])
    for (const service of [stage.service, other]) {
      const expected = { ...dispatchedAs(agent, dispatches[0]?.id), replayed: true }
      expect(await ring(service, join)).toMatchObject(expected)
    }
    expect(stage.dispatched(join)).toHaveLength(1)
    expect(await stage.row(join)).toMatchObject({
      state: "accepted",
      outcome: "accepted",
      target: "agent",
      agent_name: agent,
      worker: null,
      worker_url: null,
    })
  }

  describe("a call", () => {
    const none = { did: null, tenant: null, campaign: null }
    const cases: ReadonlyArray<
      readonly [what: string, dialed: string, agent: string, why: string, error: string | null]
    > = [
      ["a number whose target is an agent", numbers.agent, agents.campaign, "campaign", null],
      ["a number without a target of its own", numbers.tenant, agents.tenant, "tenant", null],
      [
        "a number that nobody knows",
        numbers.unknown,
        agents.default,
        "default",
        "Phone number not found in database",
      ],
    ]
    const idsOf = (dialed: string) => {
      const { campaign, dids, inactiveCampaign, tenant } = stage.ids
      if (dialed === numbers.agent) return { did: dids[dialed], tenant, campaign }
      return dialed === numbers.tenant ? { did: dids[dialed], tenant, campaign: inactiveCampaign } : none
    }

    it.each(cases)("to %s is an agent's, who is told about it", async (_, dialed, agent, why, error) => {
      const join = stage.arrive(dialed)
      const { did, tenant, campaign } = idsOf(dialed)
      const answer = await first(join)
      expect(stage.dispatched(join)).toHaveLength(1)
      const [dispatch] = stage.dispatched(join)
      expect(answer).toMatchObject(dispatchedAs(agent, dispatch?.id))
      await joined(join, agent)

      expect(dispatch?.agentName).toBe(agent)
      expect(Object.entries(JSON.parse(dispatch?.metadata ?? ""))).toEqual([
        ["call_type", "inbound"],
        ["phone_number_id", did],
        ["tenant_id", tenant],
        ["campaign_id", campaign],
        ["from_number", callerOf(join)],
        ["to_number", dialed],
        ["trunk_id", "ST_in"],
      ])
      expect(await stage.row(join)).toMatchObject({
        state: "accepted",
        outcome: "accepted",
        target: "agent",
        agent_name: agent,
        worker: null,
        worker_url: null,
        did_id: did,
        tenant_id: tenant,
        campaign_id: campaign,
        metadata: dispatch?.metadata,
        explanation: {
          route: { number: dialed, did, target: "agent", agent, agent_from: why, error },
          considered: [],
        },
      })
      expect(await stage.attempts(join)).toEqual([
        { target: "agent", worker: agent, worker_url: null, outcome: "accepted", status: 200 },
      ])
      expect(stage.relayed(join)).toBe(0)
    })

    it("to a number of the fleet's is a worker's, whatever INBOUND_TARGET says", async () => {
      const join = stage.arrive(numbers.fleet)
      expect(await first(join)).toMatchObject({
        status: 200,
        body: { ok: true, worker: stage.worker.name },
      })
      expect(stage.relayed(join)).toBe(1)
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
      expect(await stage.row(join)).toMatchObject({ state: "accepted", target: "fleet", agent_name: null })
    })

    it("is dispatched where its caller is not yet among the participants", async () => {
      // From a sender whose clock is ahead, which leaves more time until it counts as late.
      const createdAt = String(Math.floor(Date.now() / 1_000) + 4)
      const join = stage.arrive(numbers.agent, { present: "nobody", event: { createdAt } })
      expect((await first(join)).status).toBe(200)
      await expectDispatchedOnce(join, agents.campaign)
    })

    it.each([
      ["cut off", cutOff],
      ["no JSON", answerBody("<html>")],
    ])("is accepted where LiveKit's 200 is %s", async (_, behaviour) => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "CreateDispatch", behaviour)
      expect(await first(join)).toMatchObject(dispatchedAs(agents.campaign, ""))
      expect(await first(join)).toMatchObject({ status: 200, replayed: true })
      expect(stage.asked(join, "CreateDispatch")).toHaveLength(1)
      expect(await stage.row(join)).toMatchObject({ state: "accepted" })
    })
  })

  describe("once dispatched", () => {
    it("the same event is answered the same, by any replica", async () => {
      const join = stage.arrive(numbers.agent)
      expect((await first(join)).status).toBe(200)
      await expectDispatchedOnce(join, agents.campaign)
    })

    it("so is the caller's reconnect", async () => {
      const join = stage.arrive(numbers.agent)
      expect((await first(join)).status).toBe(200)
      await first(leaveOf(join))
      const again = rejoinOf(join, Number(join.participant.joinedAtMs) + 1_000)
      expect(await ring(other, again)).toMatchObject({
        ...dispatchedAs(agents.campaign, stage.dispatched(join)[0]?.id),
        replayed: true,
      })
      await expectDispatchedOnce(again, agents.campaign)
      expect(await stage.row(join)).toMatchObject({ status: "ringing" })
    })

    it("so are 20 deliveries at once", async () => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "CreateDispatch", later(200))
      const answers = await Promise.all(Array.from({ length: 20 }, () => first(join)))
      const [dispatch] = stage.dispatched(join)
      for (const answer of answers) {
        expect(answer).toMatchObject({
          ...dispatchedAs(agents.campaign, dispatch?.id),
          replayed: answer.replayed,
        })
      }
      expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1)
      await expectDispatchedOnce(join, agents.campaign)
    })

    it("so are 20 deliveries at once to two replicas, but for those who meet the other's hand-over", async () => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "CreateDispatch", later(200))
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, delivery) => ring(delivery % 2 === 0 ? stage.service : other, join)),
      )
      const [dispatch] = stage.dispatched(join)
      for (const answer of answers) {
        const expected =
          answer.status === 503
            ? problem(503, "Call in flight")
            : { ...dispatchedAs(agents.campaign, dispatch?.id), replayed: answer.replayed }
        expect(answer).toMatchObject(expected)
      }
      expect(answers.filter(({ replayed, status }) => status === 200 && !replayed)).toHaveLength(1)
      await expectDispatchedOnce(join, agents.campaign)
    })

    it("the other calls of the same caller are dispatched, too, however many come at once", async () => {
      const caller = newCaller()
      for (let round = 0; round < 10; round++) {
        const joins = Array.from({ length: 20 }, () => stage.arrive(numbers.agent, { caller }))
        const answers = await Promise.all(
          joins.map((join, call) =>
            // LiveKit has 2 s to say who is in a room; where that is too short, the next delivery asks again.
            eventually("LiveKit has said it", async () => {
              const answer = await ring(call % 2 === 0 ? stage.service : other, join)
              return (answer.body as { detail?: string }).detail === "No agent" ? undefined : answer
            }),
          ),
        )
        expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200))
        expect(joins.map((join) => stage.dispatched(join).length)).toEqual(Array(20).fill(1))
      }
    })

    it("the agent is the one that whoever asks is told", async () => {
      const join = stage.arrive(numbers.agent)
      expect((await first(join)).status).toBe(200)
      // Meanwhile the number has changed hands; the call has not.
      const question = { call_id: callIdOf(join), from_number: callerOf(join), to_number: numbers.tenant }
      const told = await askForAgent(stage.service, { ...question, room_name: join.room.name })
      expect(told).toMatchObject({
        agent_name: agents.campaign,
        metadata: stage.dispatched(join)[0]?.metadata,
        attributes: { inbound: "true", caller: callerOf(join) },
      })
      expect(told).not.toHaveProperty("error")
      await expectDispatchedOnce(join, agents.campaign)
    })
  })

  describe("nobody is dispatched", () => {
    const client = () => new AgentDispatchClient(stage.livekit.url, apiKey, apiSecret)

    it("into a room that has an agent", async () => {
      const join = stage.arrive(numbers.agent)
      stage.livekit.addParticipant(join.room.name, { identity: "agent-of-the-house", kind: "AGENT" })
      expect(await first(join)).toMatchObject(dispatchedAs(agents.campaign, ""))
      expect(await first(join)).toMatchObject({ ...dispatchedAs(agents.campaign, ""), replayed: true })
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
      expect(await stage.row(join)).toMatchObject({ state: "accepted", outcome: "accepted" })
    })

    it("while the agent is on its way by somebody else's dispatch", async () => {
      const join = stage.arrive(numbers.agent)
      stage.livekit.joinDelayMs = 60_000
      const { id } = await client().createDispatch(join.room.name, agents.campaign)
      stage.livekit.joinDelayMs = 20
      expect(await first(join)).toMatchObject(dispatchedAs(agents.campaign, id))
      expect(stage.agentsIn(join)).toEqual([])
      expect(stage.dispatched(join)).toHaveLength(1)
      expect(await stage.row(join)).toMatchObject({ state: "accepted", outcome: "accepted" })
    })

    it("but somebody is beside LiveKit's own dispatch and those of other agents", async () => {
      const join = stage.arrive(numbers.agent)
      await client().createDispatch(join.room.name, "note-taker")
      const known = await client().listDispatch(join.room.name)
      expect(known.map(({ agentName }) => agentName).sort()).toEqual(["", "note-taker"])
      const answer = await first(join)
      expect(stage.dispatched(join).map(({ agentName }) => agentName)).toEqual([
        "note-taker",
        agents.campaign,
      ])
      expect(answer).toMatchObject(dispatchedAs(agents.campaign, stage.dispatched(join)[1]?.id))
    })

    it("but somebody is beside a recorder and a second caller", async () => {
      const join = stage.arrive(numbers.agent)
      stage.livekit.addParticipant(join.room.name, { identity: "recorder", kind: "EGRESS" })
      stage.livekit.addParticipant(join.room.name, { identity: "sip_somebody", kind: "SIP" })
      expect((await first(join)).status).toBe(200)
      await expectDispatchedOnce(join, agents.campaign)
    })
  })

  describe("where LiveKit answers", () => {
    it.concurrent("slowly and then not at all, the hand-over takes 10 s, asking included", async () => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "ListParticipants", later(500))
      stage.behave(join, "ListDispatch", later(500))
      stage.behave(join, "CreateDispatch", hang)
      expect(await first(join)).toMatchObject(dispatchFailed)
      expect(await stage.waitedMs(join)).toBeLessThanOrEqual(9_500)
      const broken = () => stage.asked(join, "CreateDispatch").filter(({ brokenOff }) => brokenOff).length
      await eventually("the request is broken off", () => broken() === 1)
    })

    it.concurrent.each(failures)("%s to %s, the call is %s", async (_, method, outcome, behaviour) => {
      stage.livekit.behaviour["portal"] = refusePlainly(200, "<html>", "text/html")
      const join = stage.arrive(numbers.agent)
      stage.behave(join, method, behaviour)
      const answer = await first(join)
      expect(answer).toMatchObject(outcome === "not-sent" ? noAgent : dispatchFailed)
      expect(answer.tookMs).toBeLessThan(25_000)
      if (behaviour === hang || behaviour === workAndHang)
        expect(await stage.waitedMs(join)).toBeLessThanOrEqual(10_000)
      expect(stage.asked(join, "CreateDispatch")).toHaveLength(method === "CreateDispatch" ? 1 : 0)
      expect(await stage.row(join)).toMatchObject({
        state: outcome === "not-sent" ? "waiting" : "uncertain",
        outcome,
        target: "agent",
        agent_name: agents.campaign,
      })
      expect(await stage.attempts(join)).toEqual([
        { target: "agent", worker: agents.campaign, worker_url: null, outcome, status: null },
      ])

      stage.behave(join, method)
      const again = await ring(other, join)
      if (outcome === "not-sent") {
        expect(again).toMatchObject(dispatchedAs(agents.campaign, stage.dispatched(join)[0]?.id))
        await expectDispatchedOnce(join, agents.campaign)
        return
      }
      expect(again).toMatchObject(replayOf("ambiguous"))
      expect(await first(join)).toMatchObject(replayOf("ambiguous"))
      expect(stage.asked(join, "CreateDispatch")).toHaveLength(1)
      expect(await stage.row(join)).toMatchObject({ state: "uncertain", outcome })
    })

    it("nobody goes where a redirect points", () => {
      expect(stage.livekit.requests.filter(({ method }) => method === "portal")).toHaveLength(0)
    })

    it("an error that cannot be read, nothing of it is printed", async () => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "CreateDispatch", refusePlainly(403, "no JSON at all", "application/json"))
      expect(await first(join)).toMatchObject(noAgent)
      // Whatever is no line of ours has no message.
      expect(stage.service.log.filter(({ message }) => message === undefined)).toEqual([])
    })
  })

  describe("where LiveKit is", () => {
    it("gone, the call waits until it is back", async () => {
      const join = stage.arrive(numbers.agent)
      await stage.livekit.stop()
      try {
        expect(await first(join)).toMatchObject(noAgent)
        expect(await ring(other, join)).toMatchObject(noAgent)
        expect(await stage.row(join)).toMatchObject({ state: "waiting", outcome: "not-sent" })
      } finally {
        await stage.livekit.restart()
      }
      expect((await first(join)).replayed).toBe(false)
      await expectDispatchedOnce(join, agents.campaign)
      expect((await stage.attempts(join)).map(({ outcome }) => outcome)).toEqual([
        "not-sent",
        "not-sent",
        "accepted",
      ])
    })

    it.each([
      // No name server is asked for a label this long.
      ["at a host that nobody knows", { LIVEKIT_URL: `ws://${"x".repeat(64)}.invalid:7880` }],
      ["not set", { LIVEKIT_URL: "", INBOUND_TARGET: "" }],
    ])("%s, the call waits for a replica that reaches it", async (_, env) => {
      const lost = await stage.replica(env)
      await eventually("ready", async () => (await lost.get("/readyz")).status === 200)
      const join = stage.arrive(numbers.agent)
      expect(await ring(lost, join)).toMatchObject(noAgent)
      expect(await stage.row(join)).toMatchObject({ state: "waiting", outcome: "not-sent", target: "agent" })
      expect(stage.asked(join, "ListParticipants")).toEqual([])
      expect((await first(join)).replayed).toBe(false)
      await expectDispatchedOnce(join, agents.campaign)
    })

    it.each([
      ["INBOUND_TARGET", "agent"],
      ["FALLBACK_AGENT", agents.fallback],
    ])("not set, %s=%s stops the start with a line that names both", async (name, value) => {
      const { exited, output } = launch(runtime, { [name]: value, EMBEDDED_DATABASE: "true" })
      expect(await exited).toBe(1)
      expect(output().trim().split("\n")).toEqual([
        expect.stringMatching(new RegExp(`^${name}: .*LIVEKIT_URL must be set`)),
      ])
    })
  })

  describe("a caller who has left before the call is delivered again", () => {
    /** The first delivery of the call found no agent. */
    const waiting = async () => {
      const join = stage.arrive(numbers.agent)
      stage.behave(join, "ListDispatch", refuse("unavailable"))
      expect(await first(join)).toMatchObject(noAgent)
      stage.behave(join, "ListDispatch")
      return join
    }
    const expectLeft = async (join: JoinEvent) => {
      expect(await first(join)).toMatchObject(replayOf("left"))
      expect(await stage.row(join)).toMatchObject({ state: "waiting", status: "missed" })
      expect(await ring(other, join)).toMatchObject(replayOf("left"))
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
    }

    it("gets no agent, and none is sent into the empty room", async () => {
      const join = await waiting()
      stage.livekit.removeParticipant(join.room.name, join.participant.identity)
      await expectLeft(join)
      // LiveKit's own word comes behind the retries, and knows more.
      await first({
        ...leaveOf(join),
        participant: {
          ...leaveOf(join).participant,
          attributes: { ...join.participant.attributes, "sip.callStatus": "hangup" },
        },
      })
      expect(await stage.row(join)).toMatchObject({
        state: "waiting",
        status: "missed",
        hung_up_by: "caller",
        end_reason: "gave up",
      })
    })

    it("gets no agent, and the room that has ended is not made again", async () => {
      const join = await waiting()
      stage.livekit.endRoom(join.room.name)
      await expectLeft(join)
      expect(stage.livekit.rooms().some(({ name }) => name === join.room.name)).toBe(false)
    })

    it("gets one when coming back", async () => {
      const join = await waiting()
      stage.livekit.removeParticipant(join.room.name, join.participant.identity)
      await expectLeft(join)
      const again = rejoinOf(join, Date.now())
      stage.enter(again)
      expect((await first(again)).replayed).toBe(false)
      await expectDispatchedOnce(again, agents.campaign)
      expect(await stage.row(join)).toMatchObject({ status: "ringing" })
    })

    it("gets none either where the first delivery came late", async () => {
      const gone = agedBy(stage.arrive(numbers.agent, { present: "nobody" }), 20_000)
      expect(await first(gone)).toMatchObject(replayOf("left"))
      expect(stage.asked(gone, "CreateDispatch")).toEqual([])
      const here = agedBy(stage.arrive(numbers.agent), 20_000)
      expect((await first(here)).replayed).toBe(false)
      await expectDispatchedOnce(here, agents.campaign)
    })
  })

  describe("after LiveKit has crashed", () => {
    /** A minute ago a caller joined, and somebody else's agent; we could not dispatch ours. */
    const beforeTheCrash = async () => {
      const since = Date.now() - 60_000
      const join = stage.arrive(numbers.agent, {
        room: { creationTimeMs: String(since) },
        participant: { joinedAtMs: String(since + 500) },
      })
      expect((await first(roomStarted(join, since))).status).toBe(200)
      stage.livekit.addParticipant(join.room.name, {
        identity: "agent-of-the-house",
        kind: "AGENT",
        joinedAtMs: since + 1_000,
      })
      stage.behave(join, "ListDispatch", refuse("unavailable"))
      expect(await first(agedBy(join, 59_000))).toMatchObject(noAgent)
      stage.behave(join, "ListDispatch")
      stage.livekit.crash()
      return join
    }
    /** LiveKit is back, and the caller, too. */
    const afterTheCrash = (join: JoinEvent) => {
      const again = rejoinOf(join, Date.now())
      stage.enter(again)
      return again
    }

    it("the agent who is named and gone does not count for the caller who has rejoined", async () => {
      const join = await beforeTheCrash()
      const again = afterTheCrash(join)
      await first(roomStarted(join, Date.now()))
      const answer = await first(again)
      expect(stage.dispatched(again).map(({ agentName }) => agentName)).toEqual([agents.campaign])
      expect(answer).toMatchObject(dispatchedAs(agents.campaign, stage.dispatched(again)[0]?.id))
      await joined(again, agents.campaign)
      expect(stage.agentsIn(again).toSorted()).toEqual(["agent-of-the-house", agents.campaign])
    })

    it("the caller who is named and gone does not count either, until coming back", async () => {
      const join = await beforeTheCrash()
      await first(roomStarted(join, Date.now()))
      expect(await first(agedBy(join, 59_000))).toMatchObject(replayOf("left"))
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
      expect((await first(afterTheCrash(join))).replayed).toBe(false)
      expect(stage.asked(join, "CreateDispatch")).toHaveLength(1)
    })

    it("nobody is a ghost where the room has started but once", async () => {
      const join = await beforeTheCrash()
      expect(await first(afterTheCrash(join))).toMatchObject(dispatchedAs(agents.campaign, ""))
      expect(stage.asked(join, "CreateDispatch")).toEqual([])
    })
  })

  it("nobody is dispatched after a stop that outlasted the lease, and then it is known that nobody was", async () => {
    const stopped = await stage.replica()
    await eventually("ready", async () => (await stopped.get("/readyz")).status === 200)
    const join = stage.arrive(numbers.agent)
    stage.behave(join, "ListDispatch", later(1_000))
    const ringing = ring(stopped, join)
    await eventually("LiveKit is asked", () => stage.asked(join, "ListDispatch").length === 1)
    signal(stopped.process, "SIGSTOP")
    try {
      const answer = await eventually("the lease has lapsed", async () => {
        const answered = await first(join)
        return answered.status === 503 ? undefined : answered
      })
      expect(answer).toMatchObject(replayOf("ambiguous"))
      expect(await stage.row(join)).toMatchObject({ state: "uncertain" })
    } finally {
      signal(stopped.process, "SIGCONT")
    }
    expect(await ringing).toMatchObject(noAgent)
    await eventually("waiting", async () => (await stage.row(join)).state === "waiting")
    expect(stage.asked(join, "CreateDispatch")).toEqual([])
    stage.behave(join, "ListDispatch")
    expect((await first(join)).replayed).toBe(false)
    await expectDispatchedOnce(join, agents.campaign)
  })

  it("a dispatch under way is finished and stored when the process is told to stop", async () => {
    const leaving = await stage.replica()
    await eventually("ready", async () => (await leaving.get("/readyz")).status === 200)
    const join = stage.arrive(numbers.agent)
    stage.behave(join, "CreateDispatch", later(2_500))
    const ringing = ring(leaving, join)
    await eventually("LiveKit has the request", () => stage.asked(join, "CreateDispatch").length === 1)
    const exited = leaving.stop("SIGTERM")
    const answer = await ringing
    expect(answer).toMatchObject(dispatchedAs(agents.campaign, stage.dispatched(join)[0]?.id))
    expect(await exited).toBe(0)
    await expectDispatchedOnce(join, agents.campaign)
  })

  it("after all this, no room was made for an agent alone, and no log says what it may not", async () => {
    expect(stage.livekit.ghostRooms).toEqual([])
    await stage.stopServices()
    const output = stage.output()
    expect(output).toContain("Using campaign agent")
    for (const text of unspeakable) expect(output.includes(text), text.slice(0, 6)).toBe(false)
  })
})
