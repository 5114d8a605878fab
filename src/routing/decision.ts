// What becomes of a call to a number: who answers it, and what an agent is told about it.

import type { InboundTarget, SettingsShape } from "../config.ts"
import { storable, storableJson } from "../database/schema.ts"
import { toE164 } from "./numbers.ts"

/** A carrier, for whoever reads about a call. */
export interface CarrierRef {
  readonly id: string
  readonly name: string
}

/** What the database says of a dialed number. */
export interface Did {
  readonly id: string
  readonly number: string
  readonly target: InboundTarget | null
  readonly carrier: CarrierRef | null
  readonly tenant: { readonly id: string; readonly name: string; readonly defaultAgent: string | null } | null
  readonly campaign: {
    readonly id: string
    readonly name: string
    readonly agentName: string | null
    readonly active: boolean
  } | null
}

/**
 * Unknown: the database has no such number, or it is none. Unreachable: nobody could be asked, and the number
 * is in no memory.
 */
export type Knowledge =
  | { readonly _tag: "Known"; readonly did: Did }
  | { readonly _tag: "Unknown" }
  | { readonly _tag: "Unreachable" }

/** Who calls whom and over which trunk, as it came; the empty string where nothing is said. */
export interface Inquiry {
  readonly from: string
  readonly to: string
  readonly trunkId: string
}

/** Whose agent it is. */
export type AgentReason = "campaign" | "tenant" | "default"

export interface Decision {
  readonly target: InboundTarget
  readonly agent: { readonly name: string; readonly why: AgentReason }
  readonly error: "Phone number not found in database" | "Database error" | undefined
  readonly didId: string | undefined
  readonly carrier: CarrierRef | undefined
  readonly tenantId: string | undefined
  readonly campaignId: string | undefined
  /** For a person who reads about the call. */
  readonly names: { readonly tenant: string | undefined; readonly campaign: string | undefined }
  readonly callerE164: string | undefined
  readonly dialedE164: string | undefined
  /** JSON, for the agent's job. */
  readonly metadata: string
  readonly attributes: {
    readonly inbound: "true"
    readonly phone_number: string
    readonly caller: string
  }
}

const errors = {
  Known: undefined,
  Unknown: "Phone number not found in database",
  Unreachable: "Database error",
} as const satisfies Record<Knowledge["_tag"], Decision["error"]>

const isName = (name: string | null | undefined): name is string => name != null && name.trim() !== ""

const agentFor = (did: Did | undefined, defaultAgent: string): Decision["agent"] => {
  const campaigns = did?.campaign?.active === true ? did.campaign.agentName : undefined
  if (isName(campaigns)) return { name: campaigns, why: "campaign" }
  const tenants = did?.tenant?.defaultAgent
  return isName(tenants) ? { name: tenants, why: "tenant" } : { name: defaultAgent, why: "default" }
}

/**
 * Decides about one call. An inactive campaign does not choose the agent, but the call is still a call to it.
 * Whatever the texts are, metadata and attributes are JSON that a database takes.
 */
export const decide = (
  inquiry: Inquiry,
  known: Knowledge,
  rules: Pick<SettingsShape, "inboundTarget" | "defaultAgent" | "defaultRegion">,
): Decision => {
  const did = known._tag === "Known" ? known.did : undefined
  const callerE164 = toE164(inquiry.from, rules.defaultRegion)
  const dialedE164 = toE164(inquiry.to, rules.defaultRegion)
  const caller = callerE164 ?? storable(inquiry.from)
  const dialed = dialedE164 ?? storable(inquiry.to)
  return {
    target: did?.target ?? rules.inboundTarget,
    agent: agentFor(did, rules.defaultAgent),
    error: errors[known._tag],
    didId: did?.id,
    carrier: did?.carrier ?? undefined,
    tenantId: did?.tenant?.id,
    campaignId: did?.campaign?.id,
    names: { tenant: did?.tenant?.name, campaign: did?.campaign?.name },
    callerE164,
    dialedE164,
    metadata: storableJson({
      call_type: "inbound",
      phone_number_id: did?.id ?? null,
      tenant_id: did?.tenant?.id ?? null,
      campaign_id: did?.campaign?.id ?? null,
      from_number: caller,
      to_number: dialed,
      trunk_id: inquiry.trunkId === "" ? null : inquiry.trunkId,
    }),
    attributes: { inbound: "true", phone_number: dialed, caller },
  }
}
