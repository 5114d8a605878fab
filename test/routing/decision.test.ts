// The decision about a call: whose agent answers, in every combination, and what the agent is told.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type Decision, type Did, decide, type Inquiry, type Knowledge } from "../../src/routing/decision.ts"
import { cases } from "../support/properties.ts"
import { settingsOf } from "../support/settings.ts"

const rules = settingsOf({ DEFAULT_AGENT: "house-agent" })
const inquiry: Inquiry = { from: "(555) 123-4567", to: "15557654321", trunkId: "ST_in" }

const did: Did = {
  id: "did-1",
  number: "+15557654321",
  target: "agent",
  carrier: { id: "carrier-1", name: "Acme" },
  tenant: { id: "tenant-1", name: "Acme Inc", defaultAgent: "tenant-agent" },
  campaign: { id: "campaign-1", name: "Spring", agentName: "campaign-agent", active: true },
}
const known = (more: Partial<Did> = {}): Knowledge => ({ _tag: "Known", did: { ...did, ...more } })

const campaignAgents = ["campaign-agent", "", " ", null]
const tenantAgents = ["tenant-agent", "", null]
const campaigns: ReadonlyArray<Did["campaign"]> = [
  null,
  ...[true, false].flatMap((active) =>
    campaignAgents.map((agentName) => ({ id: "campaign-1", name: "Spring", agentName, active })),
  ),
]
const tenants: ReadonlyArray<Did["tenant"]> = [
  null,
  ...tenantAgents.map((defaultAgent) => ({ id: "tenant-1", name: "Acme Inc", defaultAgent })),
]

const expectedAgent = (campaign: Did["campaign"], tenant: Did["tenant"]): Decision["agent"] => {
  if (campaign?.active && campaign.agentName === "campaign-agent")
    return { name: "campaign-agent", why: "campaign" }
  if (tenant?.defaultAgent === "tenant-agent") return { name: "tenant-agent", why: "tenant" }
  return { name: "house-agent", why: "default" }
}

describe("the agent", () => {
  it.each(campaigns.flatMap((campaign) => tenants.map((tenant) => [campaign, tenant] as const)))(
    "of the campaign %j of the tenant %j",
    (campaign, tenant) => {
      const decision = decide(inquiry, known({ campaign, tenant }), rules)
      expect(decision).toMatchObject({
        agent: expectedAgent(campaign, tenant),
        error: undefined,
        didId: "did-1",
        tenantId: tenant?.id,
        campaignId: campaign?.id,
      })
      expect(JSON.parse(decision.metadata)).toMatchObject({
        tenant_id: tenant?.id ?? null,
        campaign_id: campaign?.id ?? null,
      })
    },
  )

  it.each([
    ["Unknown", "Phone number not found in database"],
    ["Unreachable", "Database error"],
  ] as const)("of a number that is %s is the default one, with the error %j", (_tag, error) => {
    const decision = decide(inquiry, { _tag }, rules)
    expect(decision).toMatchObject({ agent: { name: "house-agent", why: "default" }, error, target: "fleet" })
    expect([decision.didId, decision.tenantId, decision.campaignId]).toEqual([
      undefined,
      undefined,
      undefined,
    ])
  })
})

describe("the target", () => {
  const agents = { ...rules, inboundTarget: "agent" } as const

  it("is the number's own, else that of the settings", () => {
    expect(decide(inquiry, known({ target: "fleet" }), agents).target).toBe("fleet")
    expect(decide(inquiry, known({ target: "agent" }), rules).target).toBe("agent")
    expect(decide(inquiry, known({ target: null }), agents).target).toBe("agent")
    expect(decide(inquiry, known({ target: null }), rules).target).toBe("fleet")
    expect(decide(inquiry, { _tag: "Unknown" }, agents).target).toBe("agent")
    expect(decide(inquiry, { _tag: "Unreachable" }, rules).target).toBe("fleet")
  })
})

describe("what the agent is told", () => {
  it("is this, to the letter", () => {
    const { metadata, attributes } = decide(inquiry, known(), rules)
    expect(metadata).toBe(
      '{"call_type":"inbound","phone_number_id":"did-1","tenant_id":"tenant-1","campaign_id":"campaign-1",' +
        '"from_number":"+15551234567","to_number":"+15557654321","trunk_id":"ST_in"}',
    )
    expect(attributes).toEqual({ inbound: "true", phone_number: "+15557654321", caller: "+15551234567" })
  })

  it("has numbers as they came where they are none, and null for what is unknown", () => {
    const decision = decide({ from: "alice", to: "", trunkId: "" }, { _tag: "Unknown" }, rules)
    expect(JSON.parse(decision.metadata)).toEqual({
      call_type: "inbound",
      phone_number_id: null,
      tenant_id: null,
      campaign_id: null,
      from_number: "alice",
      to_number: "",
      trunk_id: null,
    })
    expect(decision.attributes).toEqual({ inbound: "true", phone_number: "", caller: "alice" })
    expect([decision.callerE164, decision.dialedE164]).toEqual([undefined, undefined])
  })

  it("reads national numbers in the region of the settings", () => {
    const decision = decide({ ...inquiry, to: "030 123456" }, known(), settingsOf({ DEFAULT_REGION: "de" }))
    expect(decision.dialedE164).toBe("+4930123456")
    expect(decision.attributes.phone_number).toBe("+4930123456")
  })
})

describe("any decision", () => {
  const texts = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.constantFrom("", "\u0000", "\ud800", "alice\u0000", '"', "+15551234567", "(555) 123-4567"),
  )
  const names = fc.option(texts, { nil: null })
  const inquiries: fc.Arbitrary<Inquiry> = fc.record({ from: texts, to: texts, trunkId: texts })
  const knowledge: fc.Arbitrary<Knowledge> = fc.oneof(
    fc.constantFrom<Knowledge>({ _tag: "Unknown" }, { _tag: "Unreachable" }),
    fc
      .record({
        id: fc.uuid(),
        number: fc.constant("+15557654321"),
        target: fc.constantFrom("fleet" as const, "agent" as const, null),
        carrier: fc.option(fc.record({ id: fc.uuid(), name: fc.string() }), { nil: null }),
        tenant: fc.option(fc.record({ id: fc.uuid(), name: fc.string(), defaultAgent: names }), {
          nil: null,
        }),
        campaign: fc.option(
          fc.record({ id: fc.uuid(), name: fc.string(), agentName: names, active: fc.boolean() }),
          {
            nil: null,
          },
        ),
      })
      .map((did) => ({ _tag: "Known" as const, did })),
  )

  const frozen = <A>(value: A): A => {
    if (typeof value === "object" && value !== null) {
      Object.values(value).forEach(frozen)
      Object.freeze(value)
    }
    return value
  }

  it("is the same for the same call, names an agent, and can be stored", () => {
    fc.assert(
      fc.property(inquiries, knowledge, (inquiry, known) => {
        const decision = decide(frozen(inquiry), frozen(known), rules)
        expect(decide({ ...inquiry }, structuredClone(known), rules)).toEqual(decision)
        expect(decision.agent.name.trim()).not.toBe("")

        const metadata: Record<string, unknown> = JSON.parse(decision.metadata)
        expect(Object.keys(metadata)).toEqual([
          "call_type",
          "phone_number_id",
          "tenant_id",
          "campaign_id",
          "from_number",
          "to_number",
          "trunk_id",
        ])
        expect(metadata["from_number"]).toBe(decision.attributes.caller)
        expect(metadata["to_number"]).toBe(decision.attributes.phone_number)
        for (const text of [...Object.values(metadata), ...Object.values(decision.attributes)]) {
          if (typeof text !== "string") continue
          expect(text.isWellFormed()).toBe(true)
          expect(text).not.toContain("\u0000")
        }
      }),
      cases,
    )
  })
})
