// A webhook's body as LiveKit's protojson writes it, read leniently: unknown fields, events and enum names pass.

import { Data, Effect } from "effect"

/** The signed body is not a webhook event. */
export class InvalidPayload extends Data.TaggedClass("InvalidPayload")<{ readonly why: string }> {}

/** One participant of an event; times in milliseconds since 1970, 0 where LiveKit said none. */
export interface EventParticipant {
  readonly sid: string
  readonly identity: string
  readonly kind: string
  readonly joinedAtMs: number
  readonly attributes: ReadonlyMap<string, string>
  /** Why it left, by LiveKit's name for it. */
  readonly disconnectReason: string
}

/** A verified event; whatever the body left out is the empty string, 0 or `undefined`. */
export interface WebhookEvent {
  readonly event: string
  readonly id: string
  readonly createdAtMs: number
  readonly room: { readonly sid: string; readonly name: string; readonly creationTimeMs: number }
  readonly participant: EventParticipant | undefined
}

// ParticipantInfo.Kind of livekit_models.proto; protojson parsers take the numbers too.
const kinds = ["STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT"]

// DisconnectReason of the same file.
const disconnectReasons = [
  "UNKNOWN_REASON",
  "CLIENT_INITIATED",
  "DUPLICATE_IDENTITY",
  "SERVER_SHUTDOWN",
  "PARTICIPANT_REMOVED",
  "ROOM_DELETED",
  "STATE_MISMATCH",
  "JOIN_FAILURE",
  "MIGRATION",
  "SIGNAL_CLOSE",
  "ROOM_CLOSED",
  "USER_UNAVAILABLE",
  "USER_REJECTED",
  "SIP_TRUNK_FAILURE",
  "CONNECTION_TIMEOUT",
  "MEDIA_FAILURE",
]

// After the year 9999 a time has more digits than its readers expect, and soon no date of JavaScript's holds it.
const latestMs = 253_402_300_799_999

interface Fields {
  readonly [name: string]: unknown
}

const notAnEvent = new InvalidPayload({ why: "not a webhook event" })

const refuse = (): never => {
  throw notAnEvent
}

// protojson leaves zero values out and may write null for them; int64 come as strings, enums by name or number.
const isZero = (value: unknown): value is null | undefined => value === undefined || value === null

const text = (value: unknown): string => {
  if (isZero(value)) return ""
  return typeof value === "string" ? value : refuse()
}

const name = (value: unknown): string => text(value) || refuse()

const int64 = (value: unknown): number => {
  if (isZero(value)) return 0
  if (typeof value !== "string" && typeof value !== "number") return refuse()
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : 0
}

const enumOf = (names: ReadonlyArray<string>, value: unknown): string => {
  if (typeof value === "number") return names[value] ?? String(value)
  return isZero(value) ? names[0]! : text(value)
}

const message = (value: unknown): Fields | undefined => {
  if (isZero(value)) return undefined
  return typeof value === "object" && !Array.isArray(value) ? (value as Fields) : refuse()
}

const time = (millis: unknown, seconds: unknown): number => {
  const known = [int64(millis), int64(seconds) * 1000]
  return known.find((ms) => ms > 0 && ms <= latestMs) ?? 0
}

// A map, because an attribute may be called `__proto__` or `constructor`.
const attributes = (value: unknown): ReadonlyMap<string, string> => {
  const found = new Map<string, string>()
  for (const [key, kept] of Object.entries(message(value) ?? {})) {
    if (typeof kept === "string") found.set(key, kept)
  }
  return found
}

const participant = (fields: Fields): EventParticipant => ({
  sid: text(fields["sid"]),
  identity: text(fields["identity"]),
  kind: enumOf(kinds, fields["kind"]),
  joinedAtMs: time(fields["joinedAtMs"], fields["joinedAt"]),
  attributes: attributes(fields["attributes"]),
  disconnectReason: enumOf(disconnectReasons, fields["disconnectReason"]),
})

const event = (json: unknown): WebhookEvent => {
  const body = message(json) ?? refuse()
  const room = message(body["room"]) ?? {}
  const who = message(body["participant"])
  return {
    event: name(body["event"]),
    id: text(body["id"]),
    createdAtMs: time(undefined, body["createdAt"]),
    room: {
      sid: text(room["sid"]),
      name: text(room["name"]),
      creationTimeMs: time(room["creationTimeMs"], room["creationTime"]),
    },
    participant: who && participant(who),
  }
}

const utf8 = new TextDecoder()

/** Reads the bytes whose signature has been checked; `InvalidPayload` where they are no event. */
export const readEvent = (body: Uint8Array): WebhookEvent | InvalidPayload => {
  let json: unknown
  try {
    json = JSON.parse(utf8.decode(body))
  } catch {
    return new InvalidPayload({ why: "not JSON" })
  }
  try {
    return event(json)
  } catch (thrown) {
    if (thrown === notAnEvent) return notAnEvent
    throw thrown
  }
}

/** Fails with the `InvalidPayload` that `readEvent` finds. */
export const decodeEvent = (body: Uint8Array): Effect.Effect<WebhookEvent, InvalidPayload> => {
  const read = readEvent(body)
  return read instanceof InvalidPayload ? Effect.fail(read) : Effect.succeed(read)
}
