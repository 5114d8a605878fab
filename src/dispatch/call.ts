// One inbound call on its way through the stages, and what identifies it for good.

import { createHash } from "node:crypto"
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

/** A call that may be handed over, once. */
export interface Call extends CallAttributes {
  readonly key: string
  readonly leg: LegEvent
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
  return plain(callId) ? callId : hash(callId)
}

/** What identifies the room: its sid, else its name. */
export const roomKey = ({ room }: WebhookEvent): string => {
  const key = room.sid || room.name
  return key === "" || plain(key) ? key : hash(key)
}
