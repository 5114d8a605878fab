// A webhook's body as LiveKit's protojson writes it, read leniently: unknown fields, events and enum names pass.

import { Data, Effect, Option, Schema } from "effect"

/** The signed body is not a webhook event. */
export class InvalidPayload extends Data.TaggedClass("InvalidPayload")<{ readonly why: string }> {}

// protojson leaves zero values out and may write null for them; int64 come as strings, enums by name or number.
const absent = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))
const text = absent(Schema.String)
const int64 = absent(Schema.Union([Schema.String, Schema.Number]))

// Looked at one by one below; a schema of its own for each would cost more than all the rest.
const Attributes = Schema.declare(
  (value): value is { readonly [name: string]: unknown } =>
    typeof value === "object" && value !== null && !Array.isArray(value),
)

const Room = Schema.Struct({ sid: text, name: text, creationTime: int64, creationTimeMs: int64 })

const Participant = Schema.Struct({
  sid: text,
  identity: text,
  kind: absent(Schema.Union([Schema.String, Schema.Number])),
  joinedAt: int64,
  joinedAtMs: int64,
  attributes: absent(Attributes),
  disconnectReason: absent(Schema.Union([Schema.String, Schema.Number])),
})

const Body = Schema.Struct({
  event: Schema.NonEmptyString,
  id: text,
  createdAt: int64,
  room: absent(Room),
  participant: absent(Participant),
})

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

const toNumber = (value: string | number | null | undefined) => {
  const number = Number(value ?? 0)
  return Number.isSafeInteger(number) && number >= 0 ? number : 0
}

// After the year 9999 a time has more digits than its readers expect, and soon no date of JavaScript's holds it.
const latestMs = 253_402_300_799_999

const asTime = (ms: number) => (ms <= latestMs ? ms : 0)

const toMillis = (millis: string | number | null | undefined, seconds: string | number | null | undefined) =>
  asTime(toNumber(millis)) || asTime(toNumber(seconds) * 1000)

// A map, because an attribute may be called `__proto__` or `constructor`.
const attributesOf = (attributes: { readonly [name: string]: unknown } | null | undefined) => {
  const found = new Map<string, string>()
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "string") found.set(name, value)
  }
  return found
}

const toEvent = (body: typeof Body.Type): WebhookEvent => ({
  event: body.event,
  id: body.id ?? "",
  createdAtMs: toMillis(undefined, body.createdAt),
  room: {
    sid: body.room?.sid ?? "",
    name: body.room?.name ?? "",
    creationTimeMs: toMillis(body.room?.creationTimeMs, body.room?.creationTime),
  },
  participant:
    body.participant == null
      ? undefined
      : {
          sid: body.participant.sid ?? "",
          identity: body.participant.identity ?? "",
          kind: enumName(kinds, body.participant.kind),
          joinedAtMs: toMillis(body.participant.joinedAtMs, body.participant.joinedAt),
          attributes: attributesOf(body.participant.attributes),
          disconnectReason: enumName(disconnectReasons, body.participant.disconnectReason),
        },
})

const enumName = (names: ReadonlyArray<string>, value: string | number | null | undefined): string =>
  typeof value === "number" ? (names[value] ?? String(value)) : (value ?? names[0] ?? "")

const decodeBody = Schema.decodeUnknownOption(Body)
const utf8 = new TextDecoder()

/** Reads the bytes whose signature has been checked. Fails with `InvalidPayload` where they are no event. */
export const decodeEvent = (body: Uint8Array): Effect.Effect<WebhookEvent, InvalidPayload> => {
  let json: unknown
  try {
    json = JSON.parse(utf8.decode(body))
  } catch {
    return Effect.fail(new InvalidPayload({ why: "not JSON" }))
  }
  return Option.match(decodeBody(json), {
    onNone: () => Effect.fail(new InvalidPayload({ why: "not a webhook event" })),
    onSome: (decoded) => Effect.succeed(toEvent(decoded)),
  })
}
