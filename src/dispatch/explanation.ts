// What a row keeps of the decisions about its call, and a dry run shows: small and bounded, for whoever asks why.

import { Option, Schema } from "effect"
import type { CallAttributes, LegEvent, Trail } from "../calls/call.ts"
import type { Considered } from "../fleet/fleet.ts"
import type { Decision } from "../routing/decision.ts"

const Text = Schema.NullOr(Schema.String)

// What a row may lack: whoever asks for an agent has decided nothing else.
const kept = Schema.optionalKey

const Explanation = Schema.Struct({
  dialed_from: kept(Text),
  trunk: kept(Text),
  /** Whose the call is: that of the trunk it came in on, else that of the number. */
  carrier: kept(Schema.NullOr(Schema.Struct({ id: Schema.String, name: Schema.String, by: Schema.String }))),
  route: Schema.Struct({
    number: Text,
    did: Text,
    tenant: Text,
    campaign: Text,
    tenant_name: kept(Text),
    campaign_name: kept(Text),
    target: Schema.String,
    agent: Schema.String,
    agent_from: Schema.String,
    error: Text,
  }),
  /** The workers, the one that was picked first, and why each other one was not. */
  considered: kept(
    Schema.Array(
      Schema.Struct({
        worker: Schema.String,
        verdict: Schema.String,
        why: kept(Schema.UndefinedOr(Schema.String)),
        load: Schema.Finite,
      }),
    ),
  ),
  /** Milliseconds by stage; `claim` and `relay` once they are over. */
  took_ms: kept(Schema.Record(Schema.String, Schema.NullOr(Schema.Finite))),
})

export type Explanation = typeof Explanation.Type

const decodeStored = Schema.decodeUnknownOption(Explanation)

/** Who was to answer the number, and why. */
export const routeOf = ({
  agent,
  campaignId,
  dialedE164,
  didId,
  error,
  names,
  target,
  tenantId,
}: Decision) => ({
  number: dialedE164 ?? null,
  did: didId ?? null,
  tenant: tenantId ?? null,
  campaign: campaignId ?? null,
  tenant_name: names.tenant ?? null,
  campaign_name: names.campaign ?? null,
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

const carrierOf = ({ carrier }: Decision, trail: Trail | undefined) => {
  if (trail?.trunkCarrier !== undefined) return { ...trail.trunkCarrier, by: "trunk" }
  return carrier === undefined ? null : { ...carrier, by: "number" }
}

/** Milliseconds by stage, to the hundredth. */
export const tookMs = (stages: Record<string, number>): Record<string, number> => {
  const rounded: Record<string, number> = {}
  for (const [stage, ms] of Object.entries(stages)) rounded[stage] = Math.round(ms * 100) / 100
  return rounded
}

/** What was decided before the claim, with what each decision took. */
export const explain = (
  { decision, trail, trunkId }: { decision: Decision; trail?: Trail | undefined; trunkId: string },
  considered: ReadonlyArray<Considered>,
  selectMs: number,
): Explanation => ({
  dialed_from: trail?.dialedFrom ?? null,
  trunk: trunkId || null,
  carrier: carrierOf(decision, trail),
  route: routeOf(decision),
  considered: considered.slice(0, mostExplained),
  took_ms: tookMs({ ...trail?.tookMs, select: selectMs }),
})

/** One attempt to hand the call over; `took_ms` is null while it runs, and where its process died over it. */
export interface Attempted {
  readonly attempt: number
  readonly worker: string
  readonly outcome: string | null
  readonly status: number | null
  readonly reason: string | null
  readonly took_ms: number | null
}

const attemptLine = ({ attempt, outcome, reason, status, took_ms, worker }: Attempted) => {
  const why = [status === null ? "" : `status ${status}`, reason ?? ""].filter((text) => text !== "")
  const how = `${outcome ?? "no outcome known"}${why.length === 0 ? "" : ` (${why.join(", ")})`}`
  return `attempt ${attempt}: ${worker}: ${how}${took_ms === null ? "" : `, ${took_ms} ms`}`
}

/** Why the call went where it went, in sentences for a person: the same for a call and for a dry run. */
export const whyOf = (
  explanation: Explanation,
  attempts: ReadonlyArray<Attempted>,
): ReadonlyArray<string> => {
  const { carrier, considered = [], dialed_from, route, took_ms, trunk } = explanation
  const found = route.did === null ? (route.error ?? "no number was dialed") : `DID ${route.did}`
  const owners = [
    route.tenant === null ? "" : `, tenant ${route.tenant_name ?? route.tenant}`,
    route.campaign === null ? "" : `, campaign ${route.campaign_name ?? route.campaign}`,
  ].join("")
  const who =
    route.target === "agent" ? `the agent ${route.agent}, the ${route.agent_from}'s` : "a worker of the fleet"
  const took = Object.entries(took_ms ?? {}).flatMap(([stage, ms]) =>
    ms === null ? [] : `${stage} ${ms} ms`,
  )
  return [
    `dialed ${route.number ?? "no number"}${dialed_from == null ? "" : ` (${dialed_from})`}, trunk ${trunk ?? "unknown"}`,
    carrier == null ? "carrier: none that we know" : `carrier ${carrier.name}, by its ${carrier.by}`,
    `number: ${found}${owners}: answered by ${who}`,
    ...considered.map(({ load, verdict, why, worker }) => {
      const reason = why === undefined ? "" : `: ${why}`
      return `worker ${worker} ${verdict}${reason}, load ${Math.round(load * 100)} %`
    }),
    ...attempts.map(attemptLine),
    ...(took.length === 0 ? [] : [`took: ${took.join(", ")}`]),
  ]
}

/** `whyOf` of what a row has kept; nothing where it has kept nothing that we understand. */
export const whyOfStored = (stored: unknown, attempts: ReadonlyArray<Attempted>): ReadonlyArray<string> => {
  const decoded = decodeStored(stored)
  return Option.isNone(decoded) ? [] : whyOf(decoded.value, attempts)
}
