// What a row keeps of the decisions about its call: small and bounded, for a person who asks why.

import type { Considered } from "../fleet/fleet.ts"
import type { Decision } from "../routing/decision.ts"

/** Who was to answer the number, and why. */
export const routeOf = ({ agent, dialedE164, didId, error, target }: Decision) => ({
  number: dialedE164 ?? null,
  did: didId ?? null,
  target,
  agent: agent.name,
  agent_from: agent.why,
  error: error ?? null,
})

// However large the fleet is: the candidates come first.
const mostExplained = 50

/** What was decided before the claim. */
export const explain = (decision: Decision, considered: ReadonlyArray<Considered>) => ({
  route: routeOf(decision),
  considered: considered.slice(0, mostExplained),
})
