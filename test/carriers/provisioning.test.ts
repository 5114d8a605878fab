// What a carrier needs in LiveKit against what is there: the differences, the refusals, and LiveKit's own order.

import { Effect, Redacted } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  callPrefix,
  comparable,
  failoverPrefix,
  isOpen,
  newTrunk,
  ownRule,
  type Plan,
  planFor,
  priorityOf,
  rulesInOrder,
  trunkConflicts,
  type Wanted,
} from "../../src/carriers/provisioning.ts"
import { isCallRoom } from "../../src/dispatch/filter-room.ts"
import type { DispatchRule, InboundTrunk } from "../../src/livekit/sip.ts"
import { decodeEvent } from "../../src/webhook/event.ts"
import { joinEvent } from "../support/events.ts"
import { cases } from "../support/properties.ts"
import { toBytes } from "../support/service.ts"

const did = "+15557654321"
const other = "+15557654322"
const caller = "+15551234567"

const aTrunk = (given: Partial<InboundTrunk> = {}): InboundTrunk => ({
  id: "ST_ours",
  name: "Acme",
  numbers: [did],
  allowedAddresses: ["203.0.113.0/24"],
  allowedNumbers: [],
  authUsername: "",
  hasPassword: false,
  password: Redacted.make(""),
  ...given,
})

const aRule = (given: Partial<DispatchRule> = {}): DispatchRule => ({
  id: "SDR_ours",
  name: "Acme",
  trunkIds: ["ST_ours"],
  kind: "individual",
  roomPrefix: "call-",
  roomName: "",
  hasPin: false,
  hidePhoneNumber: false,
  inboundNumbers: [],
  numbers: [],
  agents: [],
  ...given,
})

const aWish = (given: Partial<Wanted> = {}): Wanted => ({
  carrier: "Acme",
  numbers: [did],
  trunkId: "ST_ours",
  ruleId: "SDR_ours",
  allowedAddresses: undefined,
  credentials: undefined,
  settledTrunkId: "ST_ours",
  mayRemoveNumbers: false,
  ...given,
})

const plan = (
  trunks: ReadonlyArray<InboundTrunk>,
  rules: ReadonlyArray<DispatchRule>,
  wish: Partial<Wanted> = {},
): Plan => planFor(aWish(wish), { trunks, rules })

const kinds = ({ rule, trunk }: Plan) => [trunk.kind, rule.kind]

/** Nothing forbids it, and there is nothing to mind. */
const quiet = { refusals: [], warnings: [] }

describe("a carrier's plan", () => {
  it("is to make both where there is nothing", () => {
    const made = plan([], [], { trunkId: undefined, ruleId: undefined, allowedAddresses: ["203.0.113.9"] })
    expect(made).toEqual({
      trunk: {
        kind: "create",
        wanted: { name: "Acme", numbers: [did], allowedAddresses: ["203.0.113.9"], credentials: undefined },
      },
      rule: {
        kind: "create",
        wanted: { name: "Acme", trunkIds: [newTrunk], roomPrefix: "call-", agents: [] },
      },
      ...quiet,
    })
  })

  it("is nothing where all is as it should be, however the numbers are written", () => {
    const written = aTrunk({ numbers: ["1 (555) 765-4321"] })
    const kept = plan([written], [aRule()])
    expect(kinds(kept)).toEqual(["keep", "keep"])
    expect(kept).toMatchObject(quiet)
  })

  it("changes only what differs", () => {
    const changed = plan([aTrunk({ numbers: [did, other] })], [aRule()])
    expect(changed.trunk).toMatchObject({
      kind: "update",
      fields: { numbers: [did] },
      changes: [{ field: "numbers", removed: [other], added: [] }],
    })
    expect(changed.trunk).not.toHaveProperty("fields.allowedAddresses")
    expect(changed.rule.kind).toBe("keep")

    const rule = plan([aTrunk()], [aRule({ roomPrefix: "lobby-", inboundNumbers: [did] })])
    expect(rule.trunk.kind).toBe("keep")
    expect(rule.rule).toMatchObject({
      kind: "replace",
      changes: [
        { field: "room prefix", removed: ["lobby-"], added: ["call-"] },
        { field: "only calls from", removed: [did], added: [] },
      ],
    })
  })

  it("leaves alone what was not given", () => {
    const kept = plan([aTrunk({ allowedAddresses: ["198.51.100.7"], authUsername: "acme" })], [aRule()])
    expect(kept.trunk.kind).toBe("keep")
    const given = plan([aTrunk()], [aRule()], { allowedAddresses: ["198.51.100.7"] })
    expect(given.trunk).toMatchObject({
      fields: { allowedAddresses: ["198.51.100.7"] },
      changes: [{ field: "allowed addresses", removed: ["203.0.113.0/24"], added: ["198.51.100.7"] }],
    })
  })

  it("compares a password, and never shows one", () => {
    const credentials = { username: "acme", password: Redacted.make("hunter2") }
    const there = aTrunk({ authUsername: "acme", hasPassword: true, password: Redacted.make("hunter2") })
    expect(plan([there], [aRule()], { credentials }).trunk.kind).toBe("keep")
    const another = plan([{ ...there, password: Redacted.make("hunter3") }], [aRule()], { credentials })
    expect(another.trunk).toMatchObject({ kind: "update", fields: { credentials } })
    expect(JSON.stringify(another)).not.toContain("hunter")
    // Where LiveKit shows none, it is set again.
    const hidden = plan([aTrunk({ authUsername: "acme" })], [aRule()], { credentials })
    expect(hidden.trunk).toMatchObject({ changes: [{ field: "password" }] })
  })

  it("takes a trunk of the carrier's name for its own, if that is one and nobody else's", () => {
    const unknown = { trunkId: undefined, ruleId: undefined }
    const found = plan([aTrunk({ id: "ST_hand" })], [aRule({ trunkIds: ["ST_hand"] })], unknown)
    expect(kinds(found)).toEqual(["keep", "keep"])
    expect(found.warnings).toEqual([expect.stringContaining("ST_hand")])

    const several = plan([aTrunk({ id: "ST_1" }), aTrunk({ id: "ST_2", numbers: [other] })], [], unknown)
    expect(several.refusals).toContainEqual(expect.stringContaining("ST_1, ST_2"))

    const taken = planFor(
      aWish(unknown),
      { trunks: [aTrunk({ id: "ST_x", numbers: [other] })], rules: [] },
      new Set(["ST_x"]),
    )
    expect(taken.trunk.kind).toBe("create")
  })

  it("takes no number off a trunk that others made, unless it is told to", () => {
    const unsettled = { settledTrunkId: undefined }
    const more = aTrunk({ numbers: ["1 555 765 4321", other] })
    expect(plan([more], [aRule()], unsettled).refusals).toEqual([
      expect.stringMatching(/takes \+15557654322, and would no longer.*--remove-numbers/),
    ])
    const any = aTrunk({ numbers: [] })
    expect(plan([any], [aRule()], unsettled).refusals).toEqual([
      expect.stringContaining("takes calls to any number, and would no longer"),
    ])
    for (const trunk of [more, any]) {
      const told = plan([trunk], [aRule()], { ...unsettled, mayRemoveNumbers: true })
      expect(told).toMatchObject({ trunk: { fields: { numbers: [did] } }, refusals: [] })
    }
    const fewer = plan([more], [aRule()], { ...unsettled, numbers: [did, other, "+15557654399"] })
    expect(fewer).toMatchObject({ trunk: { kind: "update" }, refusals: [] })
  })

  it("makes a trunk again that is gone, and gives it the rule that is left", () => {
    const again = plan([], [aRule({ trunkIds: ["ST_ours"] })], { allowedAddresses: ["203.0.113.9"] })
    expect(kinds(again)).toEqual(["create", "replace"])
    expect(again.rule).toMatchObject({ wanted: { trunkIds: [newTrunk] } })
    expect(again.warnings).toContainEqual(expect.stringContaining("ST_ours, which is stored"))
  })

  it("keeps the other trunks of a rule, and says so", () => {
    const both = [aTrunk(), aTrunk({ id: "ST_second", numbers: [other] })]
    const kept = plan(both, [aRule({ trunkIds: ["ST_second", "ST_ours"] })])
    expect(kinds(kept)).toEqual(["keep", "keep"])
    expect(kept.warnings).toEqual([expect.stringContaining("serves other trunks, too: ST_second")])
    const joined = plan(both, [aRule({ trunkIds: ["ST_second"] })])
    expect(joined.rule).toMatchObject({ kind: "replace", wanted: { trunkIds: ["ST_second", "ST_ours"] } })
  })

  it("is refused without numbers", () => {
    expect(plan([], [], { numbers: [] }).refusals).toEqual([expect.stringContaining("no numbers")])
  })

  it("leaves the rule alone while failover is on", () => {
    const during = plan([aTrunk()], [aRule({ roomPrefix: "failover-", agents: ["spare"] })])
    expect(kinds(during)).toEqual(["keep", "failover"])
    expect(during).toMatchObject({ refusals: [], warnings: [expect.stringContaining("Failover is on")] })
  })
})

describe("trunks", () => {
  it("conflict by their numbers, whatever addresses they allow", () => {
    const theirs = aTrunk({ id: "ST_theirs", name: "Old", numbers: ["15557654321"], allowedAddresses: [] })
    const refused = plan([aTrunk(), theirs], [aRule()])
    expect(refused.refusals).toEqual([expect.stringContaining('ST_theirs "Old" has +15557654321, too')])
    expect(refused.refusals[0]).toContain("--trunk ST_theirs")
  })

  it("do not conflict where only one asks who calls, but lose the calls that both would take", () => {
    const some = aTrunk({ id: "ST_some", name: "", allowedNumbers: [caller] })
    const planned = plan([aTrunk(), some], [aRule()])
    expect(planned.refusals).toEqual([])
    expect(planned.warnings).toEqual([expect.stringContaining("LiveKit drops a call that two trunks")])
    expect(trunkConflicts([did], [caller], [some])).toHaveLength(1)
    expect(trunkConflicts([did], ["+15550000000"], [some])).toHaveLength(0)
    expect(trunkConflicts([did], [], [aTrunk({ numbers: [] })])).toHaveLength(0)
  })

  it("are open without addresses and password", () => {
    const open = { allowedAddresses: [], authUsername: "", hasPassword: false }
    expect(isOpen(open)).toBe(true)
    expect(isOpen({ ...open, allowedAddresses: ["0.0.0.0/0"] })).toBe(true)
    expect(isOpen({ ...open, authUsername: "acme" })).toBe(false)
    expect(isOpen({ ...open, allowedAddresses: ["203.0.113.9"] })).toBe(false)
    const warned = plan([aTrunk({ allowedAddresses: [] })], [aRule()])
    expect(warned.warnings).toEqual([expect.stringContaining("calls from anybody")])
    expect(plan([], [], {}).warnings).toContainEqual(expect.stringContaining("calls from anybody"))
    const shut = { credentials: { username: "acme", password: Redacted.make("hunter2") } }
    expect(plan([aTrunk({ allowedAddresses: [] })], [aRule()], shut).warnings).toEqual([])
  })

  it("have callers in their allowed numbers: those called are taken out, others minded", () => {
    const trap = plan([aTrunk({ allowedNumbers: [did] })], [aRule()])
    expect(trap.trunk).toMatchObject({ fields: { allowedNumbers: [] } })
    const meant = plan([aTrunk({ allowedNumbers: [caller] })], [aRule()])
    expect(meant.trunk.kind).toBe("keep")
    expect(meant.warnings).toEqual([expect.stringContaining(`Only calls from ${caller} come in`)])
  })
})

describe("rules", () => {
  it("come in LiveKit's order", () => {
    const room = { kind: "direct", roomPrefix: "", roomName: "lobby" } as const
    const expected = [
      aRule({ id: "both numbers", inboundNumbers: [caller], numbers: [did] }),
      aRule({ id: "direct, PIN, caller", ...room, hasPin: true, inboundNumbers: [caller] }),
      aRule({ id: "called", numbers: [did] }),
      aRule({ id: "caller, callee", kind: "callee", inboundNumbers: [caller] }),
      aRule({ id: "direct, PIN", ...room, hasPin: true }),
      aRule({ id: "individual, PIN", hasPin: true }),
      aRule({ id: "callee, PIN", kind: "callee", hasPin: true }),
      aRule({ id: "direct", ...room }),
      aRule({ id: "a-", roomPrefix: "a-" }),
      aRule({ id: "b-", roomPrefix: "b-" }),
      aRule({ id: "callee", kind: "callee" }),
      // One for all trunks comes after every one for this trunk.
      aRule({ id: "any trunk, PIN", trunkIds: [], hasPin: true }),
      aRule({ id: "any trunk", trunkIds: [] }),
    ]
    const beside = [
      aRule({ id: "another trunk", trunkIds: ["ST_theirs"] }),
      aRule({ id: "another number", numbers: [other] }),
      aRule({ id: "from the future", kind: "unknown" }),
    ]
    fc.assert(
      fc.property(fc.shuffledSubarray([...expected, ...beside], { minLength: 16 }), (rules) => {
        expect(rulesInOrder("ST_ours", rules, [did]).map(({ id }) => id)).toEqual(
          expected.map(({ id }) => id),
        )
      }),
      cases,
    )
    expect(priorityOf(aRule())).toBe(2_101)
  })

  it("of ours that dispatch agents are corrected, and that is said", () => {
    const drift = plan([aTrunk()], [aRule({ agents: ["helper"] })])
    expect(drift.refusals).toEqual([])
    expect(drift.warnings).toEqual([expect.stringContaining("two agents would join")])
    expect(drift.rule).toMatchObject({ kind: "replace", wanted: { agents: [] } })
  })

  it("of others that dispatch agents before ours are refused; without agents they are named", () => {
    const vip = aRule({ id: "SDR_vip", inboundNumbers: [caller], agents: ["concierge"] })
    expect(plan([aTrunk()], [aRule(), vip]).refusals).toEqual([
      expect.stringMatching(/SDR_vip .*before ours and dispatches agents itself .*concierge/),
    ])
    const silent = plan([aTrunk()], [aRule(), { ...vip, agents: [] }])
    expect(silent).toMatchObject({ refusals: [], warnings: [expect.stringMatching(/SDR_vip .*before ours/)] })
    // After ours, for other numbers or on another trunk nothing of it matters.
    for (const harmless of [{ trunkIds: [] }, { numbers: [other] }, { trunkIds: ["ST_theirs"] }]) {
      expect(plan([aTrunk()], [aRule(), { ...vip, ...harmless }])).toMatchObject(quiet)
    }
  })

  it("that take every call already are refused, since LiveKit refuses a second one", () => {
    const lobby = aRule({ id: "SDR_lobby", kind: "direct", roomPrefix: "", roomName: "lobby" })
    const refused = plan([aTrunk()], [lobby], { ruleId: undefined })
    expect(refused.refusals).toEqual([expect.stringMatching(/SDR_lobby .*every call .*the room lobby/)])
  })

  it("are recognised by trunk, kind and prefix", () => {
    const ours = aRule({ id: "SDR_found" })
    expect(ownRule("ST_ours", [aRule({ id: "x", hasPin: true }), ours])).toBe(ours)
    expect(ownRule("ST_ours", [aRule({ roomPrefix: "failover-" })])).toBeDefined()
    expect(ownRule("ST_ours", [aRule({ kind: "callee" })])).toBeUndefined()
    expect(ownRule("ST_theirs", [aRule({ trunkIds: [] }), ours])).toBeUndefined()
    const renamed = aRule({ roomPrefix: "lobby-" })
    expect(ownRule("ST_ours", [ours, renamed], "SDR_ours")).toBe(renamed)
  })
})

describe("a number", () => {
  it.each([
    ["+1 (555) 765-4321", "+15557654321"],
    ["15557654321", "+15557654321"],
    ["alice", "alice"],
    ["", ""],
  ])("%j compares as %j", (number, form) => {
    expect(comparable(number)).toBe(form)
  })
})

describe("a room's prefix", () => {
  it.each([
    [callPrefix, true],
    [failoverPrefix, false],
  ])("%s is ours: %s", (prefix, isOurs) => {
    const join = joinEvent({ room: { name: `${prefix}_+15551234567_AbCdEfGhIjKl` } })
    expect(isCallRoom(Effect.runSync(decodeEvent(toBytes(join))))).toBe(isOurs)
  })
})
