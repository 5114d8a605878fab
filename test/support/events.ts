// Webhook bodies like LiveKit's, and the recorded ones.

import { readdirSync, readFileSync } from "node:fs"

const folder = new URL("../fixtures/", import.meta.url)

/** One recorded delivery. */
export interface Recorded {
  readonly at_ms: number
  readonly answered: number
  readonly headers: Record<string, string>
  readonly body: string
}

/** The names of all recordings, without their ending. */
export const recordings: ReadonlyArray<string> = readdirSync(folder)
  .filter((name) => name.endsWith(".jsonl"))
  .map((name) => name.slice(0, -".jsonl".length))
  .sort()

/** The deliveries of one recording, in the order of their arrival. */
export const recorded = (name: string): ReadonlyArray<Recorded> =>
  readFileSync(new URL(`${name}.jsonl`, folder), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))

let made = 0

const unique = (prefix: string) =>
  `${prefix}_${process.pid}${Date.now().toString(36)}${(made++).toString(36)}`

export interface Join {
  readonly callId?: string
  readonly attributes?: Record<string, string>
  readonly room?: Record<string, unknown>
  readonly participant?: Record<string, unknown>
  readonly event?: Record<string, unknown>
}

/** A `participant_joined` of an inbound caller, as LiveKit writes it; whatever is given replaces its part. */
export const joinEvent = (join: Join = {}) => {
  const callId = join.callId ?? unique("SCL")
  const now = Date.now()
  return {
    event: "participant_joined",
    room: {
      sid: unique("RM"),
      name: `call-_+15551234567_${unique("r")}`,
      emptyTimeout: 300,
      creationTime: String(Math.floor(now / 1000)),
      creationTimeMs: String(now),
      ...join.room,
    },
    participant: {
      sid: unique("PA"),
      identity: "sip_+15551234567",
      name: "Phone +15551234567",
      state: "ACTIVE",
      joinedAt: String(Math.floor(now / 1000)),
      joinedAtMs: String(now),
      kind: "SIP",
      attributes: join.attributes ?? {
        "sip.callID": callId,
        "sip.trunkID": "ST_in",
        "sip.ruleID": "SDR_1",
        "sip.phoneNumber": "+15551234567",
        "sip.trunkPhoneNumber": "+15557654321",
        "sip.callStatus": "ringing",
      },
      ...join.participant,
    },
    id: unique("EV"),
    createdAt: String(Math.floor(now / 1000)),
    ...join.event,
  }
}

export type JoinEvent = ReturnType<typeof joinEvent>

/** The leave that ends the join. */
export const leaveOf = (join: JoinEvent) => ({
  ...join,
  event: "participant_left",
  id: unique("EV"),
  participant: { ...join.participant, disconnectReason: "CLIENT_INITIATED" },
})
