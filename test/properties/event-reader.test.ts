// Our reader of events against a schema of the same fields: the same event, or none, from any JSON and any bytes.

import { Option, Schema } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { InvalidPayload, readEvent, type WebhookEvent } from "../../src/webhook/event.ts"
import { joinEvent, leaveOf, recorded, recordings } from "../support/events.ts"
import { cases } from "../support/properties.ts"
import { toBytes } from "../support/service.ts"

const absent = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))
const text = absent(Schema.String)
const textOrNumber = absent(Schema.Union([Schema.String, Schema.Number]))

const Room = Schema.Struct({
  sid: text,
  name: text,
  creationTime: textOrNumber,
  creationTimeMs: textOrNumber,
})

const Participant = Schema.Struct({
  sid: text,
  identity: text,
  kind: textOrNumber,
  joinedAt: textOrNumber,
  joinedAtMs: textOrNumber,
  attributes: absent(Schema.Record(Schema.String, Schema.Unknown)),
  disconnectReason: textOrNumber,
})

const Body = Schema.Struct({
  event: Schema.NonEmptyString,
  id: text,
  createdAt: textOrNumber,
  room: absent(Room),
  participant: absent(Participant),
})

type TextOrNumber = string | number | null | undefined

// As livekit_models.proto numbers them.
const kinds = ["STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT"]
const reasons = [
  ..."UNKNOWN_REASON CLIENT_INITIATED DUPLICATE_IDENTITY SERVER_SHUTDOWN PARTICIPANT_REMOVED".split(" "),
  ..."ROOM_DELETED STATE_MISMATCH JOIN_FAILURE MIGRATION SIGNAL_CLOSE ROOM_CLOSED USER_UNAVAILABLE".split(
    " ",
  ),
  ..."USER_REJECTED SIP_TRUNK_FAILURE CONNECTION_TIMEOUT MEDIA_FAILURE".split(" "),
]

const named = (names: ReadonlyArray<string>, value: TextOrNumber) =>
  typeof value === "string" ? value : (names[value ?? 0] ?? String(value))

const latestMs = Date.UTC(9999, 11, 31, 23, 59, 59, 999)

const whole = (value: TextOrNumber, factor: number) => {
  const number = Number(value ?? 0)
  return Number.isSafeInteger(number) && number > 0 && number * factor <= latestMs ? number * factor : 0
}

const millis = (ms: TextOrNumber, seconds: TextOrNumber) => whole(ms, 1) || whole(seconds, 1000)

const toEvent = ({ createdAt, event, id, participant, room }: typeof Body.Type): WebhookEvent => ({
  event,
  id: id ?? "",
  createdAtMs: millis(undefined, createdAt),
  room: {
    sid: room?.sid ?? "",
    name: room?.name ?? "",
    creationTimeMs: millis(room?.creationTimeMs, room?.creationTime),
  },
  participant: participant
    ? {
        sid: participant.sid ?? "",
        identity: participant.identity ?? "",
        kind: named(kinds, participant.kind),
        joinedAtMs: millis(participant.joinedAtMs, participant.joinedAt),
        attributes: new Map(
          Object.entries(participant.attributes ?? {}).flatMap(([name, value]) =>
            typeof value === "string" ? [[name, value]] : [],
          ),
        ),
        disconnectReason: named(reasons, participant.disconnectReason),
      }
    : undefined,
})

const decodeBody = Schema.decodeUnknownOption(Body)

const bySchema = (body: Uint8Array): WebhookEvent | InvalidPayload => {
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder().decode(body))
  } catch {
    return new InvalidPayload({ why: "not JSON" })
  }
  return Option.match(decodeBody(json), {
    onNone: () => new InvalidPayload({ why: "not a webhook event" }),
    onSome: toEvent,
  })
}

/** Whether it is an event, for both. */
const agree = (body: Uint8Array): boolean => {
  const read = readEvent(body)
  expect(read, Buffer.from(body).toString()).toStrictEqual(bySchema(body))
  return !(read instanceof InvalidPayload)
}

const odd = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, "", [], {}, ["x"], { event: "x" }, { sid: 7 }, "\0", "\ud800"),
  fc.constantFrom<unknown>(
    -1,
    0,
    1.5,
    3,
    4,
    5,
    15,
    16,
    1e21,
    "3",
    "-1",
    "-0",
    " 5 ",
    "0x10",
    "1e3",
    "1.5",
    "Infinity",
  ),
  fc.constantFrom(253_402_300_799, 253_402_300_800, "253402300799999", "253402300800000", "9007199254740993"),
  fc.jsonValue({ maxDepth: 2 }),
)

const mostly = <A>(usual: fc.Arbitrary<A>) =>
  fc.oneof<fc.WeightedArbitrary<unknown>[]>({ weight: 15, arbitrary: usual }, { weight: 1, arbitrary: odd })

// Any of the fields may be missing.
const message = (fields: Record<string, fc.Arbitrary<unknown>>) =>
  fc.record({ ...fields, more: odd, ["__proto__"]: odd }, { requiredKeys: [], noNullPrototype: false })

const word = mostly(
  fc.oneof(fc.string(), fc.constantFrom("RM_1", "call-1", "sip_+15551234567", "hé\u{1f4de}")),
)
const time = mostly(
  fc.oneof(fc.nat(), fc.nat().map(String), fc.constantFrom("1763740800", 1_763_740_800_000)),
)
const oneOf = (names: ReadonlyArray<string>) =>
  mostly(fc.oneof(fc.constantFrom(...names), fc.nat(names.length), fc.constant("NEW")))

const anyBody = message({
  event: mostly(fc.constantFrom("participant_joined", "room_started", "x")),
  id: word,
  createdAt: time,
  room: mostly(message({ sid: word, name: word, creationTime: time, creationTimeMs: time })),
  participant: mostly(
    message({
      sid: word,
      identity: word,
      kind: oneOf(kinds),
      joinedAt: time,
      joinedAtMs: time,
      attributes: mostly(
        fc.dictionary(fc.constantFrom("sip.callID", "__proto__", "constructor", "", "0", "a"), odd),
      ),
      disconnectReason: oneOf(reasons),
    }),
  ),
})

describe("our reader reads as the schema does", () => {
  it("each recorded event, and the tests' own", () => {
    const join = joinEvent()
    for (const body of [join, leaveOf(join)]) expect(agree(toBytes(body))).toBe(true)
    for (const { body } of recordings.flatMap(recorded)) expect(agree(toBytes(body))).toBe(true)
  })

  it("3,000 bodies of our fields, most of them right", () => {
    let events = 0
    fc.assert(
      fc.property(anyBody, (body) => {
        if (agree(toBytes(body))) events++
      }),
      { ...cases, numRuns: 3_000 },
    )
    expect(events).toBeGreaterThan(500)
    expect(events).toBeLessThan(2_500)
  })

  it("whatever else is JSON", () => {
    fc.assert(
      fc.property(fc.json(), (body) => {
        agree(toBytes(body))
      }),
      { ...cases, numRuns: 500 },
    )
    for (const body of [
      '{"event":"x","createdAt":1e400}',
      '{"event":"x","createdAt":-0}',
      '{"event":"x","event":7}',
      '{"event":7,"event":"x"}',
      '{"event":"x","room":[]}',
      '{"event":"x","participant":[{}]}',
      '{"event":"x","participant":{"attributes":[]}}',
      '{"event":"x","participant":{"__proto__":{"kind":7},"attributes":{"__proto__":"a","constructor":"b"}}}',
      '{"__proto__":{"event":"x"}}',
    ]) {
      agree(toBytes(body))
    }
  })

  it("2,000 bodies with bytes changed, dropped or added", () => {
    const originals = [
      recorded("rang-out")[1]!.body,
      { event: "x", room: { name: "hé\u{1f4de}" }, createdAt: 7 },
    ].map(toBytes)
    const hit = fc.record({
      at: fc.nat(),
      dropped: fc.nat(2),
      added: fc.oneof(
        fc.uint8Array({ maxLength: 3 }),
        fc.constantFrom(...'0 1 [] {} null , : " \ufeff é'.split(" ")).map(toBytes),
      ),
    })
    let events = 0
    fc.assert(
      fc.property(fc.constantFrom(...originals), fc.array(hit, { maxLength: 2 }), (original, hits) => {
        const body = hits.reduce((bytes, { added, at, dropped }) => {
          const start = at % (bytes.length + 1)
          return toBytes(
            new Uint8Array([...bytes.subarray(0, start), ...added, ...bytes.subarray(start + dropped)]),
          )
        }, original)
        if (agree(body)) events++
      }),
      { ...cases, numRuns: 2_000 },
    )
    expect(events).toBeGreaterThan(200)
    expect(events).toBeLessThan(1_800)
  })
})
