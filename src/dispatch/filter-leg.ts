// Stage 6: somebody we called is SIP too, and must never be answered as if they had called us.

import { Effect } from "effect"
import type { LegEvent } from "../calls/call.ts"
import { Settings, type SettingsShape } from "../config.ts"
import { type Ignored, ignore } from "./ignored.ts"

type Rules = Pick<SettingsShape, "outboundTrunks" | "requireDispatchRule">

/** A leg that we dialed: it says so itself, or its trunk is listed as outbound. */
export const isOutbound = ({ participant }: LegEvent, rules: Rules): boolean =>
  participant.attributes.get("sip.callStatus") === "dialing" ||
  rules.outboundTrunks.has(participant.attributes.get("sip.trunkID") ?? "")

/** True where `REQUIRE_DISPATCH_RULE` asks for a rule that the leg does not have. */
export const lacksRule = ({ participant }: LegEvent, rules: Rules): boolean =>
  rules.requireDispatchRule && (participant.attributes.get("sip.ruleID") ?? "") === ""

/**
 * Lets inbound legs pass. A leg without `sip.ruleID`, which LiveKit sets on inbound legs only, passes unless
 * `REQUIRE_DISPATCH_RULE` is set; whether its room is taken is decided by the claim.
 */
export const filterLeg = (leg: LegEvent): Effect.Effect<LegEvent, Ignored, Settings> =>
  Effect.flatMap(Settings, (rules) => {
    if (isOutbound(leg, rules)) return ignore("leg", "outbound")
    return lacksRule(leg, rules) ? ignore("leg", "no dispatch rule") : Effect.succeed(leg)
  })
