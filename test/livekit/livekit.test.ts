// The client of LiveKit's API against a LiveKit API on a real socket: what it reads, and how each failure is told.

import { inspect } from "node:util"
import { Effect, Layer, Option, Redacted } from "effect"
import { AgentDispatchClient, RoomServiceClient } from "livekit-server-sdk"
import { afterEach, describe, expect, it, vi } from "vitest"
import { Settings } from "../../src/config.ts"
import { LiveKit } from "../../src/livekit/livekit.ts"
import {
  type ApiParticipant,
  answerBody,
  type Behaviour,
  cutOff,
  dropAfter,
  dropBefore,
  hang,
  type LiveKitApi,
  type LiveKitApiOptions,
  later,
  refuse,
  refusePlainly,
  startLiveKitApi,
  type TwirpService,
  workAndHang,
} from "../support/livekit-api.ts"
import { apiKey, apiSecret } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually, sleep } from "../support/waiting.ts"

const room = "call-_+15551234567_AbCdEfGhIjKl"
const caller = {
  identity: "sip_+15551234567",
  kind: "SIP",
  joinedAtMs: 1_795_212_345_020,
  attributes: { "sip.callID": "SCL_9f", "sip.h.x_under_score": "as it is" },
} as const

const cleanUps: Array<() => unknown> = []
afterEach(async () => {
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
  for (const cleanUp of cleanUps.splice(0)) await cleanUp()
})

const anApi = async (options: Partial<LiveKitApiOptions> = {}): Promise<LiveKitApi> => {
  const api = await startLiveKitApi({ key: apiKey, secret: apiSecret, ...options })
  cleanUps.push(() => api.stop())
  return api
}

type Called = { readonly _tag: string; readonly value?: unknown }

/** The three calls at this URL, each with its value or its error. */
const clientAt = (url: string | undefined, secret = apiSecret) => {
  const settings = {
    ...settingsOf({}),
    apiKeys: [{ key: apiKey, secret: Redacted.make(secret) }],
    livekitUrl: Option.fromUndefinedOr(url),
  }
  const layer = Layer.provide(LiveKit.layer, Layer.succeed(Settings, settings))
  const run = <A, E extends Called>(ask: (livekit: LiveKit["Service"]) => Effect.Effect<A, E>) =>
    Effect.runPromise(
      Effect.flatMap(LiveKit, ask).pipe(
        Effect.match({ onSuccess: (value): Called => ({ _tag: "Ok", value }), onFailure: (e): Called => e }),
        Effect.provide(layer),
      ),
    )
  return {
    configured: () => run((livekit) => Effect.succeed(livekit.configured)),
    participants: (name = room, withinMs = 5_000) => run((livekit) => livekit.participants(name, withinMs)),
    dispatches: (name = room, withinMs = 5_000) => run((livekit) => livekit.dispatches(name, withinMs)),
    createDispatch: (agentName = "agent", metadata = "", withinMs = 5_000, mayStart = () => true) =>
      run((livekit) => livekit.createDispatch(room, agentName, metadata, { withinMs, mayStart })),
  }
}

const calls = ["participants", "dispatches", "createDispatch"] as const
const methodOf = {
  participants: "ListParticipants",
  dispatches: "ListDispatch",
  createDispatch: "CreateDispatch",
}

/** Makes one of the calls, with a time limit. */
const make = (url: string, name: (typeof calls)[number], withinMs = 5_000, secret = apiSecret) => {
  const client = clientAt(url, secret)
  return name === "createDispatch"
    ? client.createDispatch("agent", "", withinMs)
    : client[name](room, withinMs)
}

const namesNoSecret = (error: Called) => {
  const shown = `${inspect(error, { depth: 9, showHidden: true })} ${JSON.stringify(error)}`
  expect(shown).not.toMatch(/eyJ|secret|127\.0\.0\.1|https?:|wss?:|\.invalid/)
}

describe("who is in a room", () => {
  it.each(["snake_case", "camelCase"] as const)("is read from LiveKit's %s", async (names) => {
    const api = await anApi({ names })
    const { sid } = api.addParticipant(room, caller)
    api.addParticipant(room, { identity: "colleague", kind: "STANDARD" })
    api.addParticipant(room, { identity: "recorder", kind: "EGRESS" })
    const answer = await clientAt(api.url).participants()
    expect(answer).toEqual({
      _tag: "Ok",
      value: [
        { ...caller, sid, attributes: new Map(Object.entries(caller.attributes)) },
        expect.objectContaining({ identity: "colleague", kind: "STANDARD", attributes: new Map() }),
        expect.objectContaining({ identity: "recorder", kind: "EGRESS" }),
      ],
    })
  })

  it("has the time in seconds where LiveKit says no milliseconds, and kinds that came later", async () => {
    const api = await anApi()
    const participants = [
      { identity: "old", joinedAt: "1795212345" },
      { identity: "bridge", kind: "BRIDGE" },
      { identity: "99", kind: 99 },
    ]
    api.behaviour["ListParticipants"] = answerBody(JSON.stringify({ participants, new_field: 1 }))
    expect(await clientAt(api.url).participants()).toMatchObject({
      value: [
        { identity: "old", sid: "", kind: "STANDARD", joinedAtMs: 1_795_212_345_000 },
        { identity: "bridge", kind: "BRIDGE", joinedAtMs: 0 },
        { identity: "99", kind: "99" },
      ],
    })
  })

  it("is nobody in a room that does not exist", async () => {
    const api = await anApi()
    expect(await clientAt(api.url).participants()).toEqual({ _tag: "Ok", value: [] })
  })

  it("names the ghosts of a crash until they leave", async () => {
    const api = await anApi()
    api.addParticipant(room, caller)
    const client = clientAt(api.url)
    api.crash()
    expect(await client.participants()).toMatchObject({ value: [{ identity: caller.identity }] })
    // No server runs that room.
    expect(await client.dispatches()).toEqual({ _tag: "LiveKitRefused", status: 503, code: "unavailable" })
    api.removeParticipant(room, caller.identity)
    expect(await client.participants()).toMatchObject({ value: [] })
  })
})

describe("an agent", () => {
  it("is sent into a room with its metadata, and joins it", async () => {
    const api = await anApi({ runningAgents: ["telephony-agent"] })
    api.addParticipant(room, caller)
    const joined: Array<[string, ApiParticipant]> = []
    api.onJoin = ({ name }, participant) => joined.push([name, participant])
    const created = await clientAt(api.url).createDispatch("telephony-agent", '{"a":1}')
    expect(created).toEqual({
      _tag: "Ok",
      value: { id: api.dispatches[0]?.id, agentName: "telephony-agent" },
    })
    expect(api.dispatches).toMatchObject([{ room, agentName: "telephony-agent", metadata: '{"a":1}' }])
    await eventually("the agent is there", () => joined.length === 1)
    expect(joined[0]).toMatchObject([room, { identity: expect.stringMatching(/^agent-AJ_/), kind: "AGENT" }])
    expect(await clientAt(api.url).participants()).toMatchObject({
      value: [{ kind: "SIP" }, { kind: "AGENT" }],
    })
    expect(api.ghostRooms).toEqual([])
  })

  it("that is asked twice comes twice, and one that nobody runs is accepted just so", async () => {
    const api = await anApi({ runningAgents: ["twin"] })
    api.addParticipant(room, caller)
    const client = clientAt(api.url)
    expect(await client.createDispatch("nobody")).toMatchObject({ _tag: "Ok" })
    await client.createDispatch("twin")
    await client.createDispatch("twin")
    await eventually("both are there", () => api.participants(room).length === 3)
    await sleep(50)
    expect(api.participants(room).map(({ kind }) => kind)).toEqual(["SIP", "AGENT", "AGENT"])
  })

  it("that is asked into a room that is gone has it to itself", async () => {
    const api = await anApi({ runningAgents: ["agent"] })
    api.addParticipant(room, caller)
    api.endRoom(room)
    await clientAt(api.url).createDispatch()
    expect(api.ghostRooms).toEqual([room])
    await eventually("it is alone", () => api.participants(room).length === 1)
  })

  it("is listed by its dispatch, LiveKit's own with the empty name is not", async () => {
    const api = await anApi()
    api.addRoom(room)
    const client = clientAt(api.url)
    expect(await client.dispatches()).toEqual({ _tag: "Ok", value: [] })
    const all = new AgentDispatchClient(api.url, apiKey, apiSecret)
    expect(await all.listDispatch(room)).toMatchObject([{ agentName: "" }])
    await client.createDispatch("one")
    const [{ id } = { id: "" }] = api.dispatches
    expect(await client.dispatches()).toEqual({ _tag: "Ok", value: [{ id, agentName: "one" }] })
  })
})

describe("LiveKit refused", () => {
  it.each<[number, string | undefined, Behaviour]>([
    [400, "malformed", refuse("malformed")],
    [400, "invalid_argument", refuse("invalid_argument")],
    [401, "unauthenticated", refuse("unauthenticated", "eyJ.secret.token")],
    [403, "permission_denied", refuse("permission_denied")],
    [404, "not_found", refuse("not_found")],
    [408, "deadline_exceeded", refuse("deadline_exceeded")],
    [429, "resource_exhausted", refuse("resource_exhausted")],
    [500, "internal", refuse("internal")],
    [503, "unavailable", refuse("unavailable")],
    [502, undefined, refusePlainly(502, "<h1>http://127.0.0.1 secret</h1>", "text/html")],
    [500, undefined, refusePlainly(500, '{"code":"http://secret"}', "application/json")],
    [500, undefined, refusePlainly(500, '{"code":7}', "application/json")],
    [304, undefined, refusePlainly(304)],
  ])("with %i %s: the status, the code and nothing else", async (status, code, behaviour) => {
    const api = await anApi()
    for (const name of calls) {
      api.behaviour[methodOf[name]] = behaviour
      const error = await make(api.url, name)
      expect(error).toEqual({ _tag: "LiveKitRefused", status, code })
      namesNoSecret(error)
    }
    expect(api.dispatches).toEqual([])
    expect(api.requests).toHaveLength(3)
  })

  it("a token that another secret signed, without showing it", async () => {
    const api = await anApi()
    const wrong = "not-the-right-secret"
    for (const name of calls) {
      const error = await make(api.url, name, 5_000, wrong)
      expect(error).toEqual({ _tag: "LiveKitRefused", status: 401, code: undefined })
      namesNoSecret(error)
    }
    // LiveKit itself shows it, in a message that the SDK hands on.
    await expect(new RoomServiceClient(api.url, apiKey, wrong).listParticipants(room)).rejects.toThrow("eyJ")
  })

  it.each(["hello", "", '"text"', "null", "[]", '{"participants":7,"agent_dispatches":7}'])(
    "is what a list of %j means",
    async (body) => {
      const api = await anApi()
      for (const name of ["participants", "dispatches"] as const) {
        api.addRoom(room)
        api.behaviour[methodOf[name]] = answerBody(body)
        const error = await make(api.url, name)
        expect(error).toEqual({ _tag: "LiveKitRefused", status: 200, code: "malformed body" })
      }
    },
  )

  it("is what a list means that is cut off", async () => {
    const api = await anApi()
    api.behaviour["ListParticipants"] = cutOff
    expect(await make(api.url, "participants")).toEqual({
      _tag: "LiveKitRefused",
      status: 200,
      code: "malformed body",
    })
  })
})

it.each<[string, Behaviour]>([
  ["garbage", answerBody("hello")],
  ["nothing", answerBody("")],
  ["another message", answerBody("[]")],
  ["a field of the wrong type", answerBody('{"id":7}')],
  ["half a message", cutOff],
])("a dispatch that was answered 200 with %s is created", async (_, behaviour) => {
  const api = await anApi()
  api.addRoom(room)
  api.behaviour["CreateDispatch"] = behaviour
  expect(await make(api.url, "createDispatch")).toEqual({ _tag: "Ok", value: { id: "", agentName: "agent" } })
  expect(api.dispatches).toHaveLength(1)
})

describe("nothing was sent", () => {
  it("where the connection is refused", async () => {
    const api = await anApi()
    await api.stop()
    for (const name of calls) {
      const error = await make(api.url, name)
      expect(error).toEqual({ _tag: "LiveKitNotReached", reason: "refused" })
      namesNoSecret(error)
    }
    await api.restart()
    expect(await make(api.url, "participants")).toMatchObject({ _tag: "Ok" })
  })

  it("where the name does not resolve or the other side speaks no TLS", async () => {
    const api = await anApi()
    for (const name of calls) {
      const unresolvable = await make("https://livekit.invalid", name)
      expect(unresolvable).toMatchObject({ _tag: "LiveKitNotReached" })
      namesNoSecret(unresolvable)
      const plain = await make(api.url.replace("ws:", "wss:"), name)
      expect(plain).toMatchObject({ _tag: "LiveKitNotReached", reason: "tls" })
      namesNoSecret(plain)
    }
    expect(api.requests).toEqual([])
  })

  it("without a URL, without a usable one and without time", async () => {
    const api = await anApi()
    for (const url of [undefined, "livekit"]) {
      const client = clientAt(url)
      expect(await client.configured()).toMatchObject({ value: false })
      const refusals = await Promise.all([
        client.participants(),
        client.dispatches(),
        client.createDispatch(),
      ])
      for (const refusal of refusals) {
        expect(refusal).toEqual({ _tag: "LiveKitNotReached", reason: "not configured" })
      }
    }
    for (const withinMs of [0, -5, Number.NaN]) {
      expect(await make(api.url, "createDispatch", withinMs)).toEqual({
        _tag: "LiveKitNotReached",
        reason: "no time left",
      })
    }
    expect(api.requests).toEqual([])
  })
})

describe("LiveKit was silent", () => {
  it.each<[string, Behaviour, number]>([
    ["before doing anything", dropBefore, 0],
    ["after doing it", dropAfter, 1],
  ])("where it dropped the connection %s", async (_, behaviour, done) => {
    const api = await anApi()
    api.addRoom(room)
    for (const name of calls) {
      api.behaviour[methodOf[name]] = behaviour
      const error = await make(api.url, name)
      expect(error).toMatchObject({ _tag: "LiveKitSilent", reason: expect.stringMatching(/^[\w ]+$/) })
      namesNoSecret(error)
    }
    expect(api.dispatches).toHaveLength(done)
    expect(api.requests).toHaveLength(3)
  })

  it.each<[string, Behaviour, number]>([
    ["does nothing", hang, 0],
    ["does it and says nothing", workAndHang, 1],
    ["is slow", later(60_000), 0],
  ])("where it %s within the time; the request is broken off", async (_, behaviour, done) => {
    const api = await anApi()
    api.addRoom(room)
    for (const name of calls) api.behaviour[methodOf[name]] = behaviour
    const errors = await Promise.all(calls.map((name) => make(api.url, name, 5_000)))
    expect(errors).toEqual(Array(3).fill({ _tag: "LiveKitSilent", reason: "no answer within 5000 ms" }))
    expect(api.dispatches).toHaveLength(done)
    await eventually("all are broken off", () => api.requests.every(({ brokenOff }) => brokenOff))
    expect(api.requests).toHaveLength(3)
  })
})

it("any time limit will do, whole or not", async () => {
  const api = await anApi()
  // As seconds and back these are no whole milliseconds, or no whole ones to begin with.
  for (const withinMs of [2_003.7, 4_007, 9_999.99, 10_001, 10_009, 120_000]) {
    expect(await make(api.url, "participants", withinMs)).toMatchObject({ _tag: "Ok" })
  }
})

it("path and user of the URL are left out", async () => {
  const api = await anApi()
  const { port } = new URL(api.url)
  expect(await make(`WS://user:word@127.0.0.1:${port}/path`, "participants")).toMatchObject({ _tag: "Ok" })
  expect(api.requests).toMatchObject([{ path: "/twirp/livekit.RoomService/ListParticipants" }])
})

it("may not be asked by who is held back once connected, and then nothing was sent", async () => {
  const api = await anApi()
  const held = clientAt(api.url).createDispatch("agent", "", 5_000, () => false)
  expect(await held).toEqual({ _tag: "LiveKitNotReached", reason: "lease lapsed" })
  expect(api.requests).toEqual([])
})

it("is not asked again, and a redirect is not followed", async () => {
  const api = await anApi()
  api.addRoom(room)
  // The SDK's own transport repeats requests to LiveKit Cloud, and follows redirects.
  const sdk = vi.fn()
  vi.stubGlobal("fetch", sdk)
  const toItself: Behaviour = (_, response) => {
    response.writeHead(307, { location: "/twirp/livekit.AgentDispatchService/CreateDispatch" }).end()
  }
  for (const behaviour of [refuse("internal"), dropAfter, dropBefore, toItself]) {
    for (const name of calls) {
      api.behaviour[methodOf[name]] = behaviour
      const before = api.requests.length
      expect(await make(api.url, name, 10_000)).not.toMatchObject({ _tag: "Ok" })
      expect(api.requests.length - before).toBe(1)
    }
  }
  expect(sdk).not.toHaveBeenCalled()
})

describe("LiveKit's API", () => {
  const raw = async (
    { url }: LiveKitApi,
    method: string,
    { token, body = "{}", type = "application/json" }: { token?: string; body?: string; type?: string } = {},
  ) => {
    const response = await fetch(`${url.replace("ws:", "http:")}/twirp/livekit.${method}`, {
      method: "POST",
      headers: { "content-type": type, ...(token === undefined ? {} : { authorization: token }) },
      body,
    })
    return [response.status, await response.text()]
  }

  it("answers rooms, participants and dispatches as the SDK asks for them", async () => {
    const api = await anApi({ runningAgents: ["agent"] })
    const rooms = new RoomServiceClient(api.url, apiKey, apiSecret)
    const agents = new AgentDispatchClient(api.url, apiKey, apiSecret)
    const { creationTimeMs, sid } = api.addRoom(room, "RM_1")
    api.addParticipant(room, caller)
    expect(await rooms.listRooms()).toMatchObject([
      { name: room, sid: "RM_1", numParticipants: 1, creationTimeMs: BigInt(creationTimeMs) },
    ])
    expect([sid, await rooms.listRooms(["other"])]).toEqual(["RM_1", []])
    expect(await rooms.getParticipant(room, caller.identity)).toMatchObject({ identity: caller.identity })

    const { id } = await agents.createDispatch(room, "agent")
    await eventually("the agent is there", () => api.participants(room).length === 2)
    expect(await agents.getDispatch(id, room)).toMatchObject({ id, agentName: "agent", state: { jobs: [] } })
    await agents.deleteDispatch(id, room)
    expect(api.participants(room)).toHaveLength(1)
    await expect(agents.deleteDispatch(id, room)).rejects.toMatchObject({ status: 404 })

    await rooms.removeParticipant(room, caller.identity)
    expect(await rooms.listParticipants(room)).toEqual([])
    await rooms.deleteRoom(room)
    expect(await rooms.listRooms()).toEqual([])
  })

  it("says 404 of a room that does not exist, and 503 of one that nobody runs", async () => {
    const api = await anApi()
    const rooms = new RoomServiceClient(api.url, apiKey, apiSecret)
    const missing = { status: 404, code: "not_found" }
    await expect(rooms.getParticipant(room, "x")).rejects.toMatchObject(missing)
    await expect(rooms.removeParticipant(room, "x")).rejects.toMatchObject(missing)
    await expect(rooms.deleteRoom(room)).rejects.toMatchObject(missing)
    api.addParticipant(room, caller)
    api.crash()
    await expect(rooms.removeParticipant(room, caller.identity)).rejects.toMatchObject({ status: 503 })
    api.addParticipant(room, caller)
    await rooms.removeParticipant(room, caller.identity)
  })

  it("refuses who may not, and what it cannot read", async () => {
    const api = await anApi()
    const of = (grant: Record<string, unknown>, secret = apiSecret) =>
      new RoomServiceClient(api.url, apiKey, secret)
        .authHeader(grant)
        .then(({ Authorization = "" }) => Authorization)
    const token = await of({ roomAdmin: true, room })
    const list = "RoomService/ListParticipants"
    const body = JSON.stringify({ room })
    const denied = [401, '{"code":"unauthenticated","msg":"permissions denied"}']
    expect(await raw(api, list, { token, body })).toEqual([200, '{"participants":[]}'])
    expect(await raw(api, list, { body })).toEqual(denied)
    expect(await raw(api, list, { token, body: '{"room":"other"}' })).toEqual(denied)
    expect(await raw(api, "RoomService/ListRooms", { token })).toEqual(denied)
    expect(await raw(api, "RoomService/DeleteRoom", { token, body })).toEqual(denied)
    expect(await raw(api, list, { token: await of({ roomList: true }), body })).toEqual(denied)

    const forged = await of({ roomAdmin: true, room }, "another")
    expect(await raw(api, list, { token: forged, body })).toEqual([
      401,
      expect.stringContaining(forged.slice("Bearer ".length)),
    ])
    expect(await raw(api, list, { token: token.slice("Bearer ".length), body })).toMatchObject([
      401,
      /Bearer/,
    ])
    expect(await raw(api, list, { token: "Bearer x", body })).toMatchObject([401, /invalid/])
    expect(await raw(api, list, { token, body: "{" })).toMatchObject([400, /"malformed"/])
    expect(await raw(api, "RoomService/Unheard", { token, body })).toMatchObject([404, /"bad_route"/])
    expect(await raw(api, list, { token, body, type: "text/plain" })).toMatchObject([404, /"bad_route"/])
  })

  it("takes both spellings, and further services beside its own", async () => {
    const echo: TwirpService = {
      Echo: { permits: ({ sip }) => sip["admin"] === true, work: (asked) => asked },
    }
    const api = await anApi({ services: { "livekit.SIP": echo } })
    const client = new AgentDispatchClient(api.url, apiKey, apiSecret)
    const { Authorization: token = "" } = await client.authHeader({ roomAdmin: true, room }, { admin: true })
    const asked = { token, body: JSON.stringify({ agent_name: "agent", room }) }
    expect(await raw(api, "AgentDispatchService/CreateDispatch", asked)).toMatchObject([200, /"agent"/])
    expect(await raw(api, "SIP/Echo", asked)).toEqual([200, JSON.stringify({ agentName: "agent", room })])
    expect(api.requests).toMatchObject([{ method: "CreateDispatch", body: { agent_name: "agent" } }, {}])
  })
})
