// What is read as a webhook event, and what is refused as none.

import { Effect, Exit, Result } from "effect"
import { describe, expect, it } from "vitest"
import { decodeEvent, InvalidPayload } from "../../src/webhook/event.ts"
import { joinEvent, recorded, recordings } from "../support/events.ts"
import { toBytes } from "../support/service.ts"

const decode = (body: unknown) => {
  const exit = Effect.runSyncExit(Effect.result(decodeEvent(toBytes(body))))
  if (Exit.isFailure(exit)) throw new Error(`decoding died: ${exit.cause}`)
  return exit.value
}
const read = (body: unknown) => Result.getOrThrow(decode(body))
const refused = (body: unknown) => Result.getOrThrow(Result.flip(decode(body)))

describe("a recorded event", () => {
  it.each(recordings)("of %s is read with all that it says", (name) => {
    const lines = recorded(name)
    expect(lines.length).toBeGreaterThan(2)
    for (const { body } of lines) {
      const { createdAt, event, id, participant, room } = JSON.parse(body)
      expect(read(body)).toEqual({
        event,
        id,
        createdAtMs: Number(createdAt) * 1000,
        room: { sid: room.sid, name: room.name, creationTimeMs: Number(room.creationTimeMs ?? 0) },
        participant: participant && {
          sid: participant.sid,
          identity: participant.identity,
          kind: participant.kind ?? "STANDARD",
          joinedAtMs: Number(participant.joinedAtMs ?? 0),
          attributes: new Map(Object.entries(participant.attributes ?? {})),
          disconnectReason: participant.disconnectReason ?? "UNKNOWN_REASON",
        },
      })
    }
  })
})

describe("a body", () => {
  it("with a byte order mark is read as without it", () => {
    const body = JSON.stringify(joinEvent())
    expect(read(`\ufeff${body}`)).toEqual(read(body))
  })

  it("with invalid UTF-8 in a text is read, with a replacement in that text", () => {
    const [before, after] = JSON.stringify(joinEvent({ room: { name: "call-|x" } })).split("|")
    const body = Buffer.concat([Buffer.from(before!), Buffer.from([0xff, 0xc3]), Buffer.from(after!)])
    expect(read(body).room.name).toBe("call-\ufffd\ufffdx")
  })

  it.each([
    ["nothing", ""],
    ["white space", " \n"],
    ["a word", "participant_joined"],
    ["half an object", '{"event":"participant_joined"'],
    ["an object and more", '{"event":"participant_joined"} x'],
    ["form data", "event=participant_joined"],
    ["invalid UTF-8 around it", new Uint8Array([0xff, ...toBytes('{"event":"x"}')])],
    ["UTF-16", Buffer.from('{"event":"x"}', "utf16le")],
  ])("that is %s is not JSON, hence no event", (_, body) => {
    expect(refused(body)).toEqual(new InvalidPayload({ why: "not JSON" }))
  })

  it.each([
    "null",
    "true",
    "7",
    '"participant_joined"',
    "[]",
    '[{"event":"participant_joined"}]',
    "{}",
    '{"Event":"participant_joined"}',
    '{"event":null}',
    '{"event":""}',
    '{"event":7}',
    '{"event":["participant_joined"]}',
    '{"__proto__":{"event":"participant_joined"}}',
    '{"event":"participant_joined","room":"call-1"}',
    '{"event":"participant_joined","room":{"name":7}}',
    '{"event":"participant_joined","participant":"sip_1"}',
    '{"event":"participant_joined","participant":{"kind":{}}}',
    '{"event":"participant_joined","participant":{"attributes":"sip.callID"}}',
  ])("%s is JSON, and no event", (body) => {
    expect(refused(body)).toEqual(new InvalidPayload({ why: "not a webhook event" }))
  })

  it("needs no more than the event's name", () => {
    expect(read('{"event":"room_started"}')).toEqual({
      event: "room_started",
      id: "",
      createdAtMs: 0,
      room: { sid: "", name: "", creationTimeMs: 0 },
      participant: undefined,
    })
  })

  it("with times that are no times is read as without them", () => {
    for (const time of ["", "soon", "-5", -5, "1.5", 1.5, "99999999999999999999", "Infinity", "NaN"]) {
      const { createdAtMs, participant } = read(
        joinEvent({ event: { createdAt: time }, participant: { joinedAt: time, joinedAtMs: time } }),
      )
      expect({ createdAtMs, joinedAtMs: participant?.joinedAtMs }, String(time)).toEqual({
        createdAtMs: 0,
        joinedAtMs: 0,
      })
    }
  })

  it("with times after the year 9999 is read as without those", () => {
    const read9999 = (createdAt: string) => read({ event: "x", createdAt }).createdAtMs
    expect(["253402300799", "253402300800", "9007199254740991"].map(read9999)).toEqual([
      253_402_300_799_000, 0, 0,
    ])
    const times = { joinedAt: "1763740800", joinedAtMs: "9007199254740991" }
    expect(read(joinEvent({ participant: times })).participant?.joinedAtMs).toBe(1_763_740_800_000)
  })

  it("keeps only the attributes that are texts", () => {
    const attributes = '{"a":"1","b":2,"c":null,"d":{"x":"y"},"e":["z"],"f":true,"sip.callID":"SCL_1"}'
    const { participant } = read(`{"event":"x","participant":{"attributes":${attributes}}}`)
    expect(participant?.attributes).toEqual(
      new Map([
        ["a", "1"],
        ["sip.callID", "SCL_1"],
      ]),
    )
  })
})

describe("JSON nested 100,000 deep", () => {
  const deep = (open: string, close: string) => open.repeat(100_000) + close.repeat(100_000)
  const arrays = deep("[", "]")
  const objects = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`

  it.each([
    ["arrays", arrays],
    ["objects", objects],
  ])("as %s alone is no event, and breaks nothing", (_, nested) => {
    expect(refused(nested)).toBeInstanceOf(InvalidPayload)
  })

  it.each([
    ["arrays", arrays],
    ["objects", objects],
  ])("as %s in unknown fields and attributes changes nothing", (_, nested) => {
    const body = `{"x":${nested},"event":"participant_joined","room":{"name":"call-1","x":${nested}},"participant":{"kind":"SIP","x":${nested},"attributes":{"sip.callID":"SCL_1","x":${nested}}}}`
    expect(read(body)).toMatchObject({ event: "participant_joined", room: { name: "call-1" } })
    expect(read(body).participant?.attributes.get("sip.callID")).toBe("SCL_1")
  })

  it.each([
    ["the event's name", `{"event":${arrays}}`],
    ["the room", `{"event":"x","room":${arrays}}`],
    ["the room's name", `{"event":"x","room":{"name":${objects}}}`],
    ["the participant's kind", `{"event":"x","participant":{"kind":${objects}}}`],
  ])("in the place of %s breaks nothing", (_, body) => {
    const result = decode(body)
    if (Result.isFailure(result)) expect(result.failure).toBeInstanceOf(InvalidPayload)
    else expect(result.success.room.name).toBe("")
  })
})
