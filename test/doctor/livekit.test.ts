// What the doctor finds in LiveKit, on a socket: each thing that can be wrong there, wrong alone.

import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { aheadBy, checkClock } from "../../src/doctor/check-clock.ts"
import { checkConflicts } from "../../src/doctor/check-conflicts.ts"
import { checkLiveKit } from "../../src/doctor/check-livekit.ts"
import { checkNumbers } from "../../src/doctor/check-numbers.ts"
import { checkTrunks } from "../../src/doctor/check-trunks.ts"
import type { Finding } from "../../src/doctor/finding.ts"
import type { StoredThings } from "../../src/doctor/look-at-database.ts"
import type { World } from "../../src/doctor/world.ts"
import { asUsual, refuse, refusePlainly } from "../support/livekit-api.ts"
import { apiSecret } from "../support/service.ts"
import { acme, databaseWith, did, type Stage, second, startStage, storedThings } from "./worlds.ts"

let stage: Stage
beforeAll(async () => {
  stage = await startStage()
})
afterAll(() => stage?.api.stop())
beforeEach(() => stage.reset())

/** What is not ok, of all that is looked at in LiveKit. */
const problems = (world: World): ReadonlyArray<Finding> =>
  [checkLiveKit, checkClock, checkTrunks, checkConflicts, checkNumbers]
    .flatMap((check) => check(world))
    .filter(({ severity }) => severity !== "ok")

const found = async (env?: Record<string, string>, parts?: Partial<World>) =>
  problems(await stage.world(env, parts))

const only = (severity: Finding["severity"], what: RegExp, fix: string | RegExp) => [
  expect.objectContaining({
    severity,
    what: expect.stringMatching(what),
    why: expect.stringMatching(/\w/),
    fix: expect.stringMatching(fix),
  }),
]

const stored = (things: Partial<StoredThings>) => ({ database: databaseWith(things) })

const agents = (...names: ReadonlyArray<string>) => ({
  emptyTimeout: 0,
  agents: names.map((agentName) => ({ agentName, metadata: "" })),
})

const individual = (roomPrefix: string, pin = "") => ({ dispatchRuleIndividual: { roomPrefix, pin } })

describe("LiveKit", () => {
  it("is all green where everything is as provisioned", async () => {
    const world = await stage.world()
    expect(problems(world)).toEqual([])
    const all = [checkLiveKit, checkClock, checkTrunks, checkConflicts, checkNumbers]
    expect(all.map((check) => check(world).length)).toEqual([1, 1, 1, 1, 1])
  })

  it("is not set", async () => {
    const expected = only("warning", /LIVEKIT_URL is not set/, "Set LIVEKIT_URL")
    expect(await found({ LIVEKIT_URL: "" })).toEqual(expected)
  })

  it("is not reached", async () => {
    const expected = only("error", /127\.0\.0\.1:9: LiveKit cannot be reached \(refused\)/, "LIVEKIT_URL")
    expect(await found({ LIVEKIT_URL: "ws://127.0.0.1:9" })).toEqual(expected)
  })

  it.each([
    ["a wrong secret", { LIVEKIT_API_SECRET: "wrong".repeat(8) }],
    ["an unknown key", { LIVEKIT_API_KEY: "nokey" }],
  ])("does not accept %s", async (_, env) => {
    const expected = only("error", /does not accept the key "\w+" \(401\)/, "LIVEKIT_API_SECRET")
    expect(await found(env)).toEqual(expected)
  })

  it("has forgotten a key that is still live here", async () => {
    const env = { LIVEKIT_KEYS: `oldkey:${apiSecret}` }
    expect(await found(env)).toEqual(only("warning", /"oldkey" of LIVEKIT_KEYS/, "Take the pair out"))
  })

  it("has no SIP service", async () => {
    stage.api.behaviour["ListSIPInboundTrunk"] = refuse("unavailable")
    expect(await found()).toEqual(only("error", /does not list its trunks: .*503 unavailable/, "livekit-sip"))
  })

  it("answers like something else", async () => {
    for (const method of ["ListRooms", "ListSIPInboundTrunk"])
      stage.api.behaviour[method] = refusePlainly(200, "<html>hello</html>", "text/html")
    expect(await found()).toEqual([expect.objectContaining({ severity: "error" })])
  })
})

describe("the clock", () => {
  const off = (ms: number) => {
    stage.api.behaviour["ListRooms"] = (work, response) => {
      response.setHeader("date", new Date(Date.now() + ms).toUTCString())
      return asUsual(work, response)
    }
  }

  it.each<[number, Finding["severity"], RegExp]>([
    [30_000, "warning", /(2\d|30) s behind LiveKit's/],
    [-30_000, "warning", /(2\d|30) s ahead of LiveKit's/],
    [90_000, "error", /(8\d|90) s behind/],
    [-90_000, "error", /(8\d|90) s ahead/],
  ])("is %i ms away", async (ms, severity, what) => {
    off(ms)
    expect(await found()).toEqual(only(severity, what, "timedatectl"))
  })

  it("is right within what cannot be measured", async () => {
    off(-4_000)
    expect(await found()).toEqual([])
    expect(aheadBy({ theirs: 5_000, askedAt: 5_100, answeredAt: 5_120 })).toBe(0)
    expect(aheadBy({ theirs: 5_000, askedAt: 5_999, answeredAt: 6_400 })).toBe(0)
    expect(aheadBy({ theirs: 5_000, askedAt: 4_000, answeredAt: 4_500 })).toBe(-500)
    expect(aheadBy({ theirs: 5_000, askedAt: 9_000, answeredAt: 9_500 })).toBe(3_000)
  })
})

describe("a trunk", () => {
  it("is not stored for its carrier", async () => {
    const carriers = [acme, { ...acme, id: "other", name: "Other", trunkId: undefined, ruleId: undefined }]
    const expected = only(
      "warning",
      /There is no trunk for the carrier "Other"/,
      'provision -- --carrier "Other"',
    )
    expect(await found({}, stored({ carriers }))).toEqual(expected)
  })

  it("is not in LiveKit", async () => {
    const carriers = [acme, { ...acme, id: "other", name: "Other", trunkId: "ST_gone" }]
    const expected = only("error", /ST_gone of the carrier "Other" is not in LiveKit/, "npm run provision")
    expect(await found({}, stored({ carriers }))).toEqual(expected)
    const named = only(
      "error",
      /ST_lost of LIVEKIT_INBOUND_TRUNK_ID is not/,
      "Correct LIVEKIT_INBOUND_TRUNK_ID",
    )
    expect(await found({ LIVEKIT_INBOUND_TRUNK_ID: "ST_acme,ST_lost" })).toEqual(named)
  })

  it("brings no calls at all", async () => {
    stage.sip.clear()
    const expected = only("error", /No trunk in LiveKit brings calls here/, "npm run provision")
    expect(await found({}, stored({ carriers: [], dids: [] }))).toEqual(expected)
  })

  it("is found by its rule where nobody names it", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", allowedAddresses: [] })
    const expected = only("warning", /ST_acme "Acme" takes calls from anybody/, /--trunk ST_acme --allow/)
    expect(await found({}, stored({ carriers: [], dids: [] }))).toEqual(expected)
    // Nobody knows what it should have, and everybody's trunks may be here.
    stage.sip.putTrunk({ sipTrunkId: "ST_theirs", numbers: ["+15550009999"] })
    expect(await found({}, stored({ carriers: [], dids: [] }))).toEqual(expected)
  })

  it("is listed as an outbound one", async () => {
    const expected = only(
      "error",
      /ST_acme "Acme" is listed in LIVEKIT_OUTBOUND_TRUNK_ID/,
      "Take ST_acme out",
    )
    expect(await found({ LIVEKIT_OUTBOUND_TRUNK_ID: "ST_acme" })).toEqual(expected)
  })
})

describe("a rule", () => {
  it("is not there", async () => {
    stage.sip.clear()
    stage.sip.putTrunk({
      sipTrunkId: "ST_acme",
      name: "Acme",
      numbers: [did, second],
      allowedAddresses: ["203.0.113.0/24"],
    })
    const dropped = only("error", /ST_acme "Acme" has no rule .*LiveKit drops its calls/, "npm run provision")
    expect(await found()).toEqual(dropped)
    stage.sip.putRule({ sipDispatchRuleId: "SDR_any", rule: individual("other-"), trunkIds: [] })
    const elsewhere = only("error", /its calls go to SDR_any: a room other-/, "npm run provision")
    expect(await found()).toEqual(elsewhere)
    // One that is for every trunk, and makes rooms of ours, will do.
    stage.sip.putRule({ sipDispatchRuleId: "SDR_any", rule: individual("call-") })
    expect(await found({}, stored({ carriers: [{ ...acme, ruleId: undefined }] }))).toEqual([])
  })

  it.each([
    ["another prefix", { rule: individual("room-") }, /room prefix: room-, should be call-/],
    [
      "another kind",
      { rule: { dispatchRuleDirect: { roomName: "call-one", pin: "" } } },
      /kind: direct, should be individual/,
    ],
    ["a PIN", { rule: individual("call-", "1234") }, /PIN: \(one\), should be none/],
    ["certain callers", { inboundNumbers: ["+15550001111"] }, /only calls from: \+15550001111/],
    ["certain numbers", { numbers: [did] }, /only calls to: \+15557654321/],
  ])("is not as stored: %s", async (_, changed, what) => {
    stage.sip.putRule({ sipDispatchRuleId: "SDR_acme", ...changed })
    expect(await found()).toEqual(only("error", what, 'npm run provision -- --carrier "Acme"'))
  })

  it("is another one than the one stored", async () => {
    const expected = only("warning", /SDR_old is stored .*LiveKit has SDR_acme/, "npm run provision")
    expect(await found({}, stored({ carriers: [{ ...acme, ruleId: "SDR_old" }] }))).toEqual(expected)
  })

  it("is failover's", async () => {
    stage.sip.putRule({
      sipDispatchRuleId: "SDR_acme",
      rule: individual("failover-"),
      roomConfig: agents("spare"),
    })
    expect(await found()).toEqual(
      only("warning", /Failover is on/, "npm run failover -- off --trunk ST_acme"),
    )
  })

  it("hides which DID was called", async () => {
    stage.sip.putRule({ sipDispatchRuleId: "SDR_acme", hidePhoneNumber: true })
    expect(await found()).toEqual(
      only("warning", /hides numbers, and its carrier has 2 DIDs/, "hide_phone_number"),
    )
  })

  it.each<[string, object, Finding["severity"], RegExp]>([
    ["asks for a PIN", { rule: individual("call-", "1234") }, "error", /SDR_first .*comes before SDR_acme/],
    ["is for the number", { numbers: [did] }, "error", /SDR_first .*comes before SDR_acme/],
    ["is for a caller", { inboundNumbers: ["+15550001111"] }, "warning", /for calls from \+15550001111/],
  ])("comes second to one that %s", async (_, changed, severity, what) => {
    stage.sip.putRule({ sipDispatchRuleId: "SDR_first", trunkIds: ["ST_acme"], ...changed })
    expect(await found()).toEqual(only(severity, what, "Delete SDR_first"))
  })

  it("does not come second to one for every trunk, or for other numbers", async () => {
    stage.sip.putRule({ sipDispatchRuleId: "SDR_all", trunkIds: [], rule: individual("other-", "1") })
    stage.sip.putRule({ sipDispatchRuleId: "SDR_else", trunkIds: ["ST_acme"], numbers: ["+15550009999"] })
    expect(await found()).toEqual([])
  })

  it.each([
    ["its own", { sipDispatchRuleId: "SDR_acme" }],
    ["of another trunk", { sipDispatchRuleId: "SDR_other", trunkIds: ["ST_other"] }],
  ])("dispatches agents beside us: %s", async (_, which) => {
    stage.sip.putRule({ ...which, roomConfig: agents("helper", "") })
    const what = /dispatches agents itself \(helper, any agent without a name\) into rooms that we take/
    expect(await found()).toEqual(only("error", what, "npm run provision"))
  })

  it("may dispatch agents elsewhere", async () => {
    const rule = individual("demo-")
    stage.sip.putRule({
      sipDispatchRuleId: "SDR_demo",
      rule,
      trunkIds: ["ST_other"],
      roomConfig: agents("x"),
    })
    expect(await found()).toEqual([])
  })
})

describe("another trunk", () => {
  it("has the same number", async () => {
    stage.sip.putTrunk({
      sipTrunkId: "ST_two",
      name: "Two",
      numbers: ["15557654322"],
      allowedAddresses: ["192.0.2.1"],
    })
    const expected = only("error", /ST_two "Two" has \+15557654322, too/, "Take the number off")
    expect(await found()).toEqual(expected)
    // Where both are ours it is one conflict, not two.
    const both = (await found({ LIVEKIT_INBOUND_TRUNK_ID: "ST_two" })).filter(
      ({ about }) => about === "Conflicts",
    )
    expect(both).toEqual(expected)
  })
})

describe("numbers", () => {
  it.each([
    ["one of them", ["15557654321", second], /\+ of E\.164, others with it: 15557654321/],
    ["all of them", ["15557654321", "15557654322"], /\+ of E\.164: 15557654321, 15557654322/],
  ])("lack their plus: %s", async (_, numbers, what) => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", numbers })
    expect(await found()).toEqual(only("warning", what, "Write them as E.164"))
  })

  it("are written as nobody calls them", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", numbers: [did, "(555) 765-4322"] })
    const [finding, ...more] = await found()
    expect(more).toEqual([])
    expect(finding).toMatchObject({ severity: "error", what: expect.stringContaining("(555) 765-4322") })
    expect(finding?.why).toContain("is +5557654322 to it, not +15557654322")
  })

  it("are missing in the trunk", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", numbers: [did] })
    expect(await found()).toEqual(
      only("error", /lacks DIDs of its carrier: \+15557654322/, "npm run provision"),
    )
  })

  it("are missing in the database", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", numbers: [did, second, "+15557654399"] })
    expect(await found()).toEqual(only("warning", /are no DIDs here: \+15557654399/, "import-numbers"))
    // Where there is no DID at all every number goes the same way, and is meant to.
    const none = stored({ carriers: [{ ...acme, numbers: [] }], dids: [] })
    expect(await found({}, none)).toEqual([])
  })

  it("are in no trunk and of no carrier", async () => {
    const stray = { number: "+15550007777", position: 0, carrier_id: null, target: null }
    const dids = [...storedThings.dids, stray]
    expect(await found({}, stored({ dids }))).toEqual(
      only("warning", /of no carrier, which no trunk has either: \+15550007777/, "Give them a carrier"),
    )
  })

  it("are any", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", numbers: [] })
    expect(await found()).toEqual(only("warning", /names no number/, "npm run provision"))
  })

  it("of ours are taken for those of callers, in the trunk", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", allowedNumbers: ["1 555 765 4321", second] })
    const [finding, ...more] = await found()
    expect(more).toEqual([])
    expect(finding).toMatchObject({
      severity: "error",
      what: expect.stringContaining("allows calls from our own DIDs (allowedNumbers): 1 555 765 4321"),
      why: expect.stringContaining("filters who calls, not what is called"),
      fix: 'npm run provision -- --carrier "Acme"',
    })
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", allowedNumbers: [did, "+15550001111"] })
    expect(await found()).toEqual(
      only("error", /allowedNumbers\): \+15557654321$/, "Take them off allowed_numbers"),
    )
  })

  it("of ours are taken for those of callers, in the rule", async () => {
    stage.sip.putRule({ sipDispatchRuleId: "SDR_acme", inboundNumbers: [did] })
    const trap = (await found()).filter(({ about }) => about === "Numbers")
    expect(trap).toEqual(only("error", /SDR_acme "Acme" is for calls from our own DIDs/, "npm run provision"))
  })

  it("of certain callers only come in", async () => {
    stage.sip.putTrunk({ sipTrunkId: "ST_acme", allowedNumbers: ["+15550001111"] })
    expect(await found()).toEqual(
      only("warning", /takes calls from \+15550001111 only/, "Empty allowed_numbers"),
    )
  })
})
