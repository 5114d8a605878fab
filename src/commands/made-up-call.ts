// An inbound call that never was, and the webhooks LiveKit would send for it.

import { createHash, randomBytes } from "node:crypto"

/** What identifies the call. Every id that LiveKit would keep for as long as the call lasts follows from `callId`. */
export interface MadeUpCall {
  readonly callId: string
  /** The caller's number; empty for a hidden one. */
  readonly from: string
  readonly to: string
  readonly trunkId: string
  readonly room: string
}

const letters = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

const toId = (bytes: Uint8Array) =>
  Array.from(bytes.subarray(0, 12), (byte) => letters[byte % letters.length]).join("")

const freshId = () => toId(randomBytes(12))

const idOf = (callId: string, what: string) => toId(createHash("sha256").update(`${what} ${callId}`).digest())

const hiddenCaller = "sip_00112233445566aa"

/** A call as an individual dispatch rule with the prefix `call-` would make it; whatever is missing is made up. */
export const makeUpCall = (
  given: { readonly [Part in keyof MadeUpCall]?: string | undefined },
): MadeUpCall => {
  const callId = given.callId ?? `SCL_${freshId()}`
  const from = given.from ?? "+15551234567"
  return {
    callId,
    from,
    to: given.to ?? "+15557654321",
    trunkId: given.trunkId ?? "ST_madeup",
    room: given.room ?? `call-_${from}_${idOf(callId, "room name")}`,
  }
}

const seconds = (ms: number) => String(Math.floor(ms / 1000))

const attributesOf = (call: MadeUpCall, status: string) => ({
  "sip.callID": call.callId,
  "sip.callStatus": status,
  ...(call.from === "" ? {} : { "sip.phoneNumber": call.from }),
  "sip.ruleID": "SDR_madeup",
  "sip.trunkID": call.trunkId,
  ...(call.to === "" ? {} : { "sip.trunkPhoneNumber": call.to }),
})

const gone = new Set(["participant_left", "participant_connection_aborted"])

const agentOf = (call: MadeUpCall, now: number) => ({
  sid: `PA_${idOf(call.callId, "agent")}`,
  identity: `agent-${idOf(call.callId, "agent")}`,
  state: "ACTIVE",
  joinedAt: seconds(now),
  joinedAtMs: String(now),
  version: 2,
  permission: { canSubscribe: true, canPublish: true, canPublishData: true, agent: true },
  kind: "AGENT",
})

const partiesOf = (call: MadeUpCall, event: string, now: number, who: "caller" | "agent") => {
  const room = { sid: `RM_${idOf(call.callId, "room")}`, name: call.room }
  const caller = {
    sid: `PA_${idOf(call.callId, "caller")}`,
    identity: call.from === "" ? hiddenCaller : `sip_${call.from}`,
  }
  if (event.startsWith("track_")) {
    const track = { sid: `TR_${idOf(call.callId, "track")}`, source: "MICROPHONE", mimeType: "audio/opus" }
    return { room, participant: caller, track }
  }
  const wholeRoom = {
    ...room,
    emptyTimeout: 300,
    departureTimeout: 20,
    creationTime: seconds(now),
    creationTimeMs: String(now),
  }
  if (event.startsWith("room_")) return { room: wholeRoom }
  if (who === "agent") return { room: wholeRoom, participant: agentOf(call, now) }
  const participant = {
    ...caller,
    state: gone.has(event) ? "DISCONNECTED" : "ACTIVE",
    joinedAt: seconds(now),
    joinedAtMs: String(now),
    name: `Phone ${call.from}`.trim(),
    version: 2,
    permission: { canSubscribe: true, canPublish: true, canPublishData: true, canUpdateMetadata: true },
    kind: "SIP",
    attributes: attributesOf(call, gone.has(event) ? "hangup" : "ringing"),
    ...(gone.has(event) ? { disconnectReason: "CLIENT_INITIATED" } : {}),
  }
  return { room: wholeRoom, participant }
}

/** The body of a new event of the call, as it happens now, about the caller or the agent who answers. */
export const eventBody = (
  call: MadeUpCall,
  event: string,
  who: "caller" | "agent" = "caller",
): Uint8Array<ArrayBuffer> => {
  const now = Date.now()
  const parties = partiesOf(call, event, now, who)
  const body = { event, ...parties, id: `EV_${freshId()}`, createdAt: seconds(now) }
  return new TextEncoder().encode(JSON.stringify(body))
}

/** What LiveKit tells of a call from its answer to its end, and what that is in words. */
export const answerToEnd = [
  { event: "participant_joined", who: "agent", what: "an agent joins the room and answers", afterMs: 0 },
  // LiveKit's webhooks have whole seconds, so a shorter call would last none.
  { event: "participant_left", who: "caller", what: "the caller hangs up", afterMs: 1_500 },
  { event: "participant_left", who: "agent", what: "the agent leaves", afterMs: 0 },
  { event: "room_finished", who: "caller", what: "the room closes", afterMs: 0 },
] as const
