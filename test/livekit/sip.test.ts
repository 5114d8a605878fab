// The client of LiveKit's SIP service against one on a real socket: what it reads, what it sends, how it fails.

import { inspect } from "node:util"
import { Effect, Layer, Option, Redacted } from "effect"
import * as fc from "fast-check"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { trunkConflicts } from "../../src/carriers/provisioning.ts"
import { Settings } from "../../src/config.ts"
import { type LiveKitError, LiveKitSip, whatWentWrong } from "../../src/livekit/sip.ts"
import {
  answerBody,
  type Behaviour,
  dropAfter,
  type LiveKitApi,
  refuse,
  refusePlainly,
  startLiveKitApi,
  workAndHang,
} from "../support/livekit-api.ts"
import { type ApiTrunk, makeSipApi } from "../support/livekit-sip.ts"
import { cases } from "../support/properties.ts"
import { apiKey, apiSecret } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"

const sip = makeSipApi()
let api: LiveKitApi
beforeAll(async () => {
  api = await startLiveKitApi({ key: apiKey, secret: apiSecret, services: sip.services })
})
afterAll(() => api.stop())
afterEach(() => {
  sip.clear()
  for (const method of Object.keys(api.behaviour)) delete api.behaviour[method]
})

/** Asks, and has the value or the error. */
const ask = <A>(
  question: (service: LiveKitSip["Service"]) => Effect.Effect<A, LiveKitError>,
  { secret = apiSecret, url = api.url as string | undefined } = {},
): Promise<A | LiveKitError> => {
  const settings = {
    ...settingsOf({}),
    apiKeys: [{ key: apiKey, secret: Redacted.make(secret) }],
    livekitUrl: Option.fromUndefinedOr(url),
  }
  const layer = Layer.provide(LiveKitSip.layer, Layer.succeed(Settings, settings))
  return Effect.runPromise(
    Effect.flatMap(LiveKitSip, question).pipe(
      Effect.match({ onSuccess: (value): A | LiveKitError => value, onFailure: (error) => error }),
      Effect.provide(layer),
    ),
  )
}

const within = 5_000
const wantedTrunk = {
  name: "Acme",
  numbers: ["+15557654321"],
  allowedAddresses: ["203.0.113.0/24"],
  credentials: { username: "acme", password: Redacted.make("hunter2") },
}

describe("an inbound trunk", () => {
  it("is made, read and changed in what is named", async () => {
    const made = await ask((service) => service.createInboundTrunk(wantedTrunk, within))
    expect(made).toMatchObject({ name: "Acme", authUsername: "acme", hasPassword: true, allowedNumbers: [] })
    expect(inspect(made, { depth: 9 })).not.toContain("hunter2")
    expect(await ask((service) => service.inboundTrunks(within))).toEqual([made])

    const [stored] = sip.trunks()
    sip.putTrunk({ ...stored!, headersToAttributes: { "X-Queue": "queue" } })
    const fields = { numbers: ["+15557654322"], allowedAddresses: [] }
    await ask((service) => service.updateInboundTrunk(stored!.sipTrunkId, fields, within))
    expect(sip.trunks()).toEqual([
      { ...stored, ...fields, headersToAttributes: { "X-Queue": "queue" } } satisfies Partial<ApiTrunk>,
    ])
  })

  it("is refused where it has a number of another, in the very cases in which a plan is", async () => {
    const numbers = fc.subarray(["+15550000001", "+15550000002", "15550000001"])
    const callers = fc.subarray(["+15559990001", "+15559990002"])
    const aTrunk = fc.record({
      numbers: fc.subarray(["+15550000001", "+15550000002"], { minLength: 1 }),
      callers,
    })
    await fc.assert(
      fc.asyncProperty(aTrunk, numbers, callers, async (ours, theirNumbers, theirCallers) => {
        sip.clear()
        sip.putTrunk({ sipTrunkId: "ST_theirs", numbers: theirNumbers, allowedNumbers: theirCallers })
        sip.putTrunk({ sipTrunkId: "ST_ours", numbers: ["+15558880000"] })
        const fields = { numbers: ours.numbers, allowedNumbers: ours.callers }
        const listed = await ask((service) => service.inboundTrunks(within))
        const others = Array.isArray(listed) ? listed.filter(({ id }) => id !== "ST_ours") : []
        const answer = await ask((service) => service.updateInboundTrunk("ST_ours", fields, within))
        const conflicts = trunkConflicts(ours.numbers, ours.callers, others)
        expect("_tag" in answer && answer._tag === "LiveKitRefused").toBe(conflicts.length > 0)
      }),
      { ...cases, numRuns: 60 },
    )
  })
})

describe("a dispatch rule", () => {
  it.each([
    [{ dispatchRuleIndividual: { roomPrefix: "a-", pin: "" } }, { kind: "individual", roomPrefix: "a-" }],
    [{ dispatchRuleDirect: { roomName: "b", pin: "1" } }, { kind: "direct", roomName: "b", hasPin: true }],
    [
      { dispatchRuleCallee: { roomPrefix: "c-", pin: "", randomize: true } },
      { kind: "callee", roomPrefix: "c-" },
    ],
  ])("is read from %j", async (rule, expected) => {
    const roomConfig = { emptyTimeout: 1, agents: [{ agentName: "helper", metadata: "" }] }
    sip.putRule({ sipDispatchRuleId: "SDR_1", rule, trunkIds: ["ST_1"], numbers: ["+1555"], roomConfig })
    expect(await ask((service) => service.dispatchRules(within))).toEqual([
      expect.objectContaining({
        id: "SDR_1",
        trunkIds: ["ST_1"],
        numbers: ["+1555"],
        agents: ["helper"],
        ...expected,
      }),
    ])
  })

  it("of a kind that came later is unknown", async () => {
    api.behaviour["ListSIPDispatchRule"] = answerBody(
      '{"items":[{"sip_dispatch_rule_id":"SDR_1","rule":{"new":{}}}]}',
    )
    expect(await ask((service) => service.dispatchRules(within))).toMatchObject([
      { id: "SDR_1", kind: "unknown" },
    ])
  })

  it("is replaced in what is wanted, and keeps the rest", async () => {
    const agents = [
      { agentName: "helper", metadata: "as it is" },
      { agentName: "other", metadata: "" },
    ]
    const before = sip.putRule({
      sipDispatchRuleId: "SDR_1",
      trunkIds: ["ST_1"],
      inboundNumbers: ["+1555"],
      hidePhoneNumber: true,
      metadata: "kept",
      attributes: { "with.dots_and_more": "kept" },
      roomConfig: { emptyTimeout: 60, agents },
    })
    const wanted = { name: "New", trunkIds: ["ST_1", "ST_2"], roomPrefix: "failover-", agents: ["helper"] }
    const answer = await ask((service) => service.replaceDispatchRule("SDR_1", wanted, within))
    expect(answer).toMatchObject({ id: "SDR_1", ...wanted, inboundNumbers: [] })
    expect(sip.rules()).toEqual([
      {
        ...before,
        name: "New",
        trunkIds: ["ST_1", "ST_2"],
        inboundNumbers: [],
        rule: { dispatchRuleIndividual: { roomPrefix: "failover-", pin: "" } },
        roomConfig: { emptyTimeout: 60, agents: agents.slice(0, 1) },
      },
    ])
    expect(await ask((service) => service.replaceDispatchRule("SDR_2", wanted, within))).toMatchObject({
      _tag: "LiveKitRefused",
      status: 404,
    })
  })
})

describe("LiveKit's clock", () => {
  it("is read from any answer, a refusal too", async () => {
    const near = () => ({ date: expect.closeTo(Date.now(), -4), accepted: true })
    expect(await ask((service) => service.serverTime(within))).toEqual(near())
    const wrong = await ask((service) => service.serverTime(within), { secret: "wrong".repeat(8) })
    expect(wrong).toEqual({ ...near(), accepted: false })
    api.behaviour["ListRooms"] = answerBody("nonsense")
    expect(await ask((service) => service.serverTime(within))).toEqual(near())
    api.behaviour["ListRooms"] = (_, response) => {
      response.sendDate = false
      response.end("{}")
    }
    expect(await ask((service) => service.serverTime(within))).toEqual({ date: undefined, accepted: true })
  })
})

describe("a failure", () => {
  const make = (options?: { readonly secret?: string; readonly url?: string }) =>
    ask((service) => service.createInboundTrunk(wantedTrunk, 5_000), options)

  it.each<[string, Behaviour, object, string]>([
    [
      "an error of Twirp's",
      refuse("invalid_argument", "says hunter2"),
      { status: 400 },
      "(400 invalid_argument)",
    ],
    ["a proxy's page", refusePlainly(502, "hunter2"), { _tag: "LiveKitRefused", status: 502 }, "(502)"],
    ["a body that is none", answerBody("{"), { code: "malformed body" }, "cannot be read"],
    ["no answer", workAndHang, { _tag: "LiveKitSilent" }, "may have done"],
    ["a connection that breaks", dropAfter, { _tag: "LiveKitSilent" }, "may have done"],
  ])("after %s is told for what it is, without a secret", async (_, behaviour, expected, words) => {
    api.behaviour["CreateSIPInboundTrunk"] = behaviour
    const error = await make()
    expect(error).toMatchObject(expected)
    expect(whatWentWrong(error as LiveKitError)).toContain(words)
    expect(`${inspect(error, { depth: 9 })}${whatWentWrong(error as LiveKitError)}`).not.toMatch(
      /eyJ|hunter2/,
    )
  })

  it("is that nothing was sent where nobody listens, or nobody is named", async () => {
    const refused = await make({ url: "ws://127.0.0.1:9" })
    expect(refused).toEqual({ _tag: "LiveKitNotReached", reason: "refused" })
    const settings = Layer.succeed(Settings, settingsOf({}))
    const none = Effect.flatMap(LiveKitSip, ({ configured }) => Effect.succeed(configured)).pipe(
      Effect.provide(Layer.provide(LiveKitSip.layer, settings)),
    )
    expect(await Effect.runPromise(none)).toBe(false)
  })

  it("is a refusal of the key", async () => {
    const error = await make({ secret: "wrong".repeat(8) })
    expect(error).toMatchObject({ _tag: "LiveKitRefused", status: 401 })
    expect(whatWentWrong(error as LiveKitError)).toContain("does not accept the key")
    expect(sip.trunks()).toEqual([])
  })
})
