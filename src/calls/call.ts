// One inbound call, and what identifies it for good.

import { createHash } from "node:crypto"
import type { CarrierRef, Decision } from "../routing/decision.ts"
import type { EventParticipant, WebhookEvent } from "../webhook/event.ts"

/** An event about a SIP participant of a room. */
export interface LegEvent {
  readonly event: WebhookEvent
  readonly participant: EventParticipant
}

/** What the attributes say, as it came; the empty string where LiveKit said nothing. */
export interface CallAttributes {
  readonly callerNumber: string
  readonly dialedNumber: string
  readonly trunkId: string
  readonly callId: string
}

/** How the decision about a call was come to, for its explanation. */
export interface Trail {
  readonly dialedFrom: "sip.calledNumber" | "sip.trunkPhoneNumber" | "first DID of the trunk" | "nowhere"
  /** The carrier with the trunk that the call came in on. */
  readonly trunkCarrier: CarrierRef | undefined
  /** How many milliseconds each stage took so far. */
  readonly tookMs: Record<string, number>
}

/** A call that may be handed over, once: its leg, its numbers, and who is to answer it. */
export interface Call extends CallAttributes {
  readonly key: string
  readonly leg: LegEvent
  readonly decision: Decision
  readonly trail?: Trail
}

// What is looked up by must fit an index entry; an id longer than any of LiveKit's is hashed.
const longestPlainKey = 200

const hash = (...parts: ReadonlyArray<string>) => {
  const digest = createHash("sha256")
  for (const part of parts) digest.update(`${Buffer.byteLength(part)}:`).update(part)
  return `sha256:${digest.digest("hex")}`
}

const plain = (id: string) => id.length <= longestPlainKey && /^[\x20-\x7e]+$/.test(id)

/** The call key: `sip.callID`; without it, room sid (else name) and participant identity, hashed. */
export const callKey = ({ event, participant }: LegEvent): string => {
  const callId = participant.attributes.get("sip.callID") ?? ""
  if (callId === "") return hash(event.room.sid || event.room.name, participant.identity)
  return indexed(callId)
}

/** An id as it is looked up: as it is, or hashed where it would not fit an index; the empty one stays empty. */
export const indexed = (id: string): string => (id === "" || plain(id) ? id : hash(id))

/** The names of the call, any of which somebody else may know it by. */
export const callNames = (leg: LegEvent): ReadonlyArray<string> => [
  callKey(leg),
  indexed(leg.participant.attributes.get("sip.callIDFull") ?? ""),
]

/** The room with the caller, for a call whose ids do not meet; empty where either is unknown. */
export const meetingOf = (roomName: string, caller: string): string =>
  roomName === "" || caller === "" ? "" : hash(roomName, caller)

/** What identifies the room: its sid, else its name. */
export const roomKey = ({ room }: WebhookEvent): string => indexed(room.sid || room.name)
