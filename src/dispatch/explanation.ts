// What a row keeps of the decisions about its call, and a dry run shows: small and bounded, for whoever asks why.

import type { CallAttributes, LegEvent, Trail } from "../calls/call.ts"
import type { Considered } from "../fleet/fleet.ts"
import type { Decision } from "../routing/decision.ts"

/** Who was to answer the number, and why. */
export const routeOf = ({ agent, campaignId, dialedE164, didId, error, target, tenantId }: Decision) => ({
  number: dialedE164 ?? null,
  did: didId ?? null,
  tenant: tenantId ?? null,
  campaign: campaignId ?? null,
  target,
  agent: agent.name,
  agent_from: agent.why,
  error: error ?? null,
})

const sources = ["sip.calledNumber", "sip.trunkPhoneNumber"] as const

/** Where the dialed number was found, before and after the DID fallback. */
export const dialedFrom = (
  { participant }: LegEvent,
  { dialedNumber }: CallAttributes,
): Trail["dialedFrom"] => {
  const said = sources.find((name) => (participant.attributes.get(name) ?? "") !== "")
  return said ?? (dialedNumber === "" ? "nowhere" : "first DID of the trunk")
}

// However large the fleet is: the candidates come first.
const mostExplained = 50

const rounded = (ms: number) => Math.round(ms * 100) / 100

/** What was decided before the claim, with what each decision took. */
export const explain = (
  { decision, trail, trunkId }: { decision: Decision; trail?: Trail | undefined; trunkId: string },
  considered: ReadonlyArray<Considered>,
  selectMs: number,
) => ({
  dialed_from: trail?.dialedFrom ?? null,
  trunk: trunkId || null,
  route: routeOf(decision),
  considered: considered.slice(0, mostExplained),
  took_ms: { route: trail === undefined ? null : rounded(trail.routeMs), select: rounded(selectMs) },
})

export type Explanation = ReturnType<typeof explain>
