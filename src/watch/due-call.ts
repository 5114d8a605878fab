// A call as its row tells it, for whoever goes on with it long after its webhook.

import { Effect } from "effect"
import type { Call, LegEvent } from "../calls/call.ts"
import { route } from "../dispatch/route.ts"
import type { Routing } from "../routing/routing.ts"
import type { DueRow } from "./statements.ts"

/** The call, as if its join had just come; who answers its number is decided anew. */
export const callOfRow = (row: DueRow): Effect.Effect<Call, never, Routing> => {
  const attributes = new Map(
    Object.entries({
      "sip.callID": row.sip_call_id,
      "sip.callIDFull": row.sip_call_id_full,
      "sip.ruleID": row.rule_id,
      "sip.trunkID": row.trunk_id,
    }).flatMap(([name, value]) => (value ? [[name, value] as const] : [])),
  )
  const joinedAtMs = Number(row.caller_joined_ms ?? 0)
  const participant = {
    sid: "",
    identity: row.participant_identity ?? "",
    kind: "SIP",
    joinedAtMs,
    attributes,
    disconnectReason: "",
  }
  const room = { sid: row.room_sid ?? "", name: row.room_name ?? "", creationTimeMs: 0 }
  const leg: LegEvent = {
    participant,
    event: { event: "participant_joined", id: "", createdAtMs: Date.now(), room, participant },
  }
  const told = {
    callerNumber: row.caller ?? "",
    dialedNumber: row.dialed ?? "",
    trunkId: row.trunk_id ?? "",
    callId: row.sip_call_id ?? "",
  }
  return Effect.map(route(told), (decision) => ({ ...told, key: row.call_key, leg, decision }))
}
