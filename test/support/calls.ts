// Calls as the pipeline makes them, for tests that begin behind the webhook.

import { type Call, callKey } from "../../src/calls/call.ts"
import { type Decision, decide } from "../../src/routing/decision.ts"
import { settingsOf } from "./settings.ts"

/** What a number that nobody knows decides. */
export const unknownNumber: Decision = decide(
  { from: "+1555", to: "+1888", trunkId: "ST" },
  { _tag: "Unknown" },
  settingsOf(),
)

/** An inbound call with a dispatch rule, in a room of its own. */
export const makeCall = (id: string, joinedAtMs = 1_000): Call => {
  const attributes = new Map([
    ["sip.callID", id],
    ["sip.ruleID", "SDR_1"],
  ])
  const participant = {
    sid: "PA",
    identity: "sip_+1555",
    kind: "SIP",
    joinedAtMs,
    attributes,
    disconnectReason: "",
  }
  const room = { sid: `RM_${id}`, name: "call-x", creationTimeMs: 0 }
  const event = { event: "participant_joined", id: "EV", createdAtMs: 0, room, participant }
  const leg = { event, participant }
  return {
    key: callKey(leg),
    leg,
    callerNumber: "+1555",
    dialedNumber: "+1888",
    trunkId: "ST",
    callId: id,
    decision: unknownNumber,
  }
}
