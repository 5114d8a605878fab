// Properties of the filters and of attribute extraction over random events: what passes, what is ignored, and
// that nothing which means nothing changes the answer.

import { Effect, Exit } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Settings } from "../../src/config.ts"
import { extractAttributes } from "../../src/dispatch/extract-attributes.ts"
import { filterEvent } from "../../src/dispatch/filter-event.ts"
import { filterLeg } from "../../src/dispatch/filter-leg.ts"
import { filterParticipant } from "../../src/dispatch/filter-participant.ts"
import { filterRoom } from "../../src/dispatch/filter-room.ts"
import { decodeEvent } from "../../src/webhook/event.ts"
import { joinEvent, recorded } from "../support/events.ts"
import { cases } from "../support/properties.ts"
import { settingsOf } from "../support/settings.ts"

interface Rules {
  readonly outboundTrunks: ReadonlyArray<string>
  readonly requireDispatchRule: boolean
}

const lenient: Rules = { outboundTrunks: [], requireDispatchRule: false }

const settings = settingsOf()
const bytes = (text: string) => new TextEncoder().encode(text)

// The stages as the pipeline puts them together, between the signature and the DID fallback.
const stages = (body: Uint8Array, rules: Rules) =>
  decodeEvent(body).pipe(
    Effect.flatMap(filterEvent),
    Effect.flatMap(filterParticipant),
    Effect.flatMap(filterRoom),
    Effect.flatMap(filterLeg),
    Effect.map((leg) => ({ end: "call" as const, ...extractAttributes(leg) })),
    Effect.catchTag("Ignored", ({ stage }) => Effect.succeed({ end: "ignored" as const, stage })),
    Effect.catchTag("InvalidPayload", () => Effect.succeed({ end: "no event" as const })),
    Effect.provideService(Settings, {
      ...settings,
      outboundTrunks: new Set(rules.outboundTrunks),
      requireDispatchRule: rules.requireDispatchRule,
    }),
  )

/** Fails the test where the stages throw, die or are not done at once. */
const endOfBytes = (body: Uint8Array, rules: Rules = lenient) => {
  const exit = Effect.runSyncExit(stages(body, rules))
  if (Exit.isFailure(exit)) throw new Error(`the stages broke: ${exit.cause}`)
  return exit.value
}

const endOf = (body: unknown, rules: Rules = lenient) => endOfBytes(bytes(JSON.stringify(body)), rules)

// JSON as any sender may write it: fields in an order of its own, white space wherever it may stand.
const write = (value: unknown, order: number, space: string): string => {
  const rank = (name: string) => {
    let hash = order
    for (const char of name) hash = Math.imul(hash ^ char.charCodeAt(0), 0x01000193)
    return hash
  }
  if (Array.isArray(value)) {
    return `[${value.map((item) => space + write(item, order, space)).join(`${space},`)}${space}]`
  }
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .sort(([a], [b]) => rank(a) - rank(b))
      .map(([name, item]) => `${space}${JSON.stringify(name)}${space}:${space}${write(item, order, space)}`)
    return `{${fields.join(`${space},`)}${space}}`
  }
  return JSON.stringify(value)
}

const orders = fc.integer({ min: 1, max: 0x7fffffff })
const spaces = fc.constantFrom("", " ", "\n", "\t", "\r\n  ", " \t \n")

// What the specification says of each stage, from the body itself and in other words than the stages use.
interface Body {
  readonly event: string
  readonly room: { readonly name: string | null } | null | undefined
  readonly participant:
    | {
        readonly kind: string | number | null
        readonly attributes: Record<string, string | null | undefined> | null | undefined
      }
    | null
    | undefined
}

const expectedEnd = (body: Body, rules: Rules, numberInIdentity: string) => {
  const ignored = (stage: string) => ({ end: "ignored", stage })
  if (body.event !== "participant_joined" || body.participant == null) return ignored("event")
  const { participant } = body
  if (participant.kind !== "SIP" && participant.kind !== 3) return ignored("participant")
  if (body.room?.name?.slice(0, 5) !== "call-") return ignored("room")
  const attributes = participant.attributes ?? {}
  const said = (name: string) => (Object.hasOwn(attributes, name) ? (attributes[name] ?? "") : "")
  if (said("sip.callStatus") === "dialing") return ignored("leg")
  if (rules.outboundTrunks.includes(said("sip.trunkID"))) return ignored("leg")
  if (rules.requireDispatchRule && said("sip.ruleID") === "") return ignored("leg")
  const firstOf = (...texts: ReadonlyArray<string>) => texts.find((text) => text !== "") ?? ""
  return {
    end: "call",
    callerNumber: firstOf(said("sip.phoneNumber"), numberInIdentity),
    dialedNumber: firstOf(said("sip.calledNumber"), said("sip.trunkPhoneNumber")),
    trunkId: said("sip.trunkID"),
    callId: said("sip.callID"),
  }
}

// Events that are nearly a call, or are one: each part is right more often than not.
const digits = fc.string({ unit: fc.constantFrom(..."0123456789"), minLength: 3, maxLength: 15 })
const hex = fc.string({ unit: fc.constantFrom(..."0123456789abcdef"), minLength: 16, maxLength: 16 })
const sixteenDigits = fc.string({ unit: fc.constantFrom(..."0123456789"), minLength: 16, maxLength: 16 })
const numbers = fc.tuple(fc.constantFrom("", "+"), digits).map((parts) => parts.join(""))

const prefixes = fc.constantFrom("sip_", "sip-")
const strangers = fc.constantFrom(
  "",
  "sip_",
  "sip_anonymous",
  "sip_alice.b-c",
  "sip-participant",
  "sip_+",
  "sip_1555x",
  "sip_x1555",
  "xsip_15551234567",
  "SIP_15551234567",
  "+15551234567",
  "agent-15551234567",
)

/** An identity, and the number that stands in it. */
const identities = fc.oneof(
  fc.tuple(prefixes, numbers).map(([prefix, number]) => ({ identity: prefix + number, number })),
  fc.oneof(hex, sixteenDigits).map((hash) => ({ identity: `sip_${hash}`, number: "" })),
  strangers.map((identity) => ({ identity, number: "" })),
)

const mostly = <A, B>(usual: A, others: fc.Arbitrary<B>) =>
  fc.oneof({ weight: 5, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: others })
/** There, or absent in one of the two ways in which protojson may write that. */
const maybe = <A>(arbitrary: fc.Arbitrary<A>) =>
  fc.oneof({ weight: 8, arbitrary }, { weight: 1, arbitrary: fc.constantFrom(null, undefined) })

const texts = fc.oneof(
  numbers,
  fc.string({ unit: "binary" }),
  fc.constantFrom("", " ", "anonymous", "+", "0"),
)
const bags = fc.record({
  "sip.callID": maybe(texts),
  "sip.trunkID": maybe(fc.constantFrom("ST_in", "ST_out", "ST_out2", "st_out", "")),
  "sip.ruleID": maybe(fc.constantFrom("SDR_1", "SDR_2", "")),
  "sip.phoneNumber": maybe(texts),
  "sip.calledNumber": maybe(texts),
  "sip.trunkPhoneNumber": maybe(texts),
  "sip.callStatus": maybe(
    mostly("ringing", fc.constantFrom("active", "hangup", "dialing", "DIALING", "dialing ", "")),
  ),
  "sip.h.x-tenant": maybe(texts),
})
const eventNames = mostly(
  "participant_joined",
  fc.constantFrom(
    "participant_left",
    "participant.joined",
    "Participant_Joined",
    "participant_joined ",
    "room_started",
  ),
)
const roomNames = mostly(
  "call-_+15551234567_AbCdEfGhIjKl",
  fc.oneof(
    fc.string(),
    fc.constantFrom("call-", "call", "Call-1", " call-1", "call_1", "recall-1", "", null),
  ),
)
const kindNames = mostly(
  "SIP",
  fc.constantFrom(3, 0, 1, 2, 4, 7, 99, -1, 3.5, "sip", "3", "AGENT", "STANDARD", "OF_TOMORROW", "", null),
)

const nearMisses = identities.chain(({ identity, number }) =>
  fc
    .record({
      event: eventNames,
      id: maybe(fc.string()),
      createdAt: maybe(fc.oneof(fc.nat(), fc.nat().map(String))),
      room: maybe(fc.record({ sid: maybe(fc.string()), name: roomNames })),
      participant: maybe(
        fc.record({
          sid: maybe(fc.string()),
          kind: kindNames,
          identity: fc.constant(identity),
          attributes: maybe(bags),
        }),
      ),
    })
    .map((body) => ({ body, numberInIdentity: number })),
)

const rules: fc.Arbitrary<Rules> = fc.record({
  outboundTrunks: fc.subarray(["ST_out", "ST_out2", "ST_elsewhere"]),
  requireDispatchRule: fc.boolean(),
})

const known = new Set([
  "event",
  "id",
  "createdAt",
  "room",
  "participant",
  "sid",
  "name",
  "creationTime",
  "creationTimeMs",
  "identity",
  "kind",
  "joinedAt",
  "joinedAtMs",
  "attributes",
])
const unknownNames = fc
  .oneof(
    fc.constantFrom("__proto__", "constructor", "toString", "turnPassword", "Event", "events"),
    fc.string(),
  )
  .filter((name) => !known.has(name))
const unknownFields = fc.array(fc.tuple(unknownNames, fc.jsonValue()), { maxLength: 5 })

// By `defineProperty`, because a field may be called `__proto__`.
const extended = (object: object | null | undefined, fields: ReadonlyArray<readonly [string, unknown]>) => {
  if (object == null) return object
  const copy = { ...object }
  for (const [name, value] of fields) {
    Object.defineProperty(copy, name, { value, enumerable: true, configurable: true, writable: true })
  }
  return copy
}

describe("the filters and the extraction", () => {
  it("end exactly as the specification's table says, whatever the event", () => {
    const ends = new Map<string, number>()
    fc.assert(
      fc.property(nearMisses, rules, ({ body, numberInIdentity }, rules) => {
        const end = endOf(body, rules)
        expect(end).toEqual(expectedEnd(body, rules, numberInIdentity))
        const name = end.end === "ignored" ? end.stage : end.end
        ends.set(name, (ends.get(name) ?? 0) + 1)
      }),
      cases,
    )
    // The random events are worth something only if every way of the table was gone often.
    for (const name of ["event", "participant", "room", "leg", "call"]) {
      expect(ends.get(name), name).toBeGreaterThan(50)
    }
  })

  it("never throw or die on arbitrary JSON, and let only what is a call pass", () => {
    const fields = fc.constantFrom(
      "event",
      "room",
      "participant",
      "kind",
      "name",
      "identity",
      "attributes",
      "sip.callID",
    )
    const shaped = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { depthSize: "small" },
        fc.jsonValue(),
        fc.constantFrom("participant_joined", "SIP", "call-1", 3, null, {}, []),
        fc.dictionary(fields, tie("value"), { maxKeys: 6 }),
      ),
    })).value
    fc.assert(
      fc.property(shaped, (json) => {
        const body = bytes(JSON.stringify(json))
        const { end } = endOfBytes(body)
        if (end !== "call") return
        const { event, participant, room } = json as Record<string, Record<string, unknown>>
        expect({ event, kind: participant?.["kind"] === 3 ? "SIP" : participant?.["kind"] }).toEqual({
          event: "participant_joined",
          kind: "SIP",
        })
        expect(room?.["name"]).toMatch(/^call-/)
      }),
      cases,
    )
  })

  it("never throw or die on arbitrary bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (body) => {
        expect(["no event", "ignored"]).toContain(endOfBytes(body).end)
      }),
      cases,
    )
  })

  it("never throw or die on a real event whose bytes were damaged", () => {
    const whole = bytes(recorded("answered-by-agent")[1]!.body)
    expect(endOfBytes(whole).end).toBe("call")
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        (hits) => {
          const damaged = new Uint8Array(whole)
          for (const [at, byte] of hits) damaged[at] = byte
          expect(["no event", "ignored", "call"]).toContain(endOfBytes(damaged).end)
        },
      ),
      cases,
    )
  })

  it("give the same answer whatever the order of the fields and the white space", () => {
    fc.assert(
      fc.property(nearMisses, rules, orders, spaces, ({ body }, rules, order, space) => {
        expect(endOfBytes(bytes(write(body, order, space)), rules)).toEqual(endOf(body, rules))
      }),
      cases,
    )
  })

  it("give the same answer with unknown fields anywhere, whatever is in them", () => {
    fc.assert(
      fc.property(
        nearMisses,
        rules,
        unknownFields,
        unknownFields,
        unknownFields,
        ({ body }, rules, inEvent, inRoom, inParticipant) => {
          const more = extended(
            {
              ...body,
              room: extended(body.room, inRoom),
              participant: extended(body.participant, inParticipant),
            },
            inEvent,
          )
          expect(endOf(more, rules)).toEqual(endOf(body, rules))
        },
      ),
      cases,
    )
  })

  it("give the same answer with attributes that they do not know, `__proto__` and `constructor` among them", () => {
    const names = fc
      .oneof(
        fc.constantFrom("__proto__", "constructor", "hasOwnProperty", "sip.h.from", "SIP.CALLID", "callID"),
        fc.string(),
      )
      .filter((name) => !/^sip\.[a-zA-Z]+$/.test(name))
    const more = fc.array(
      fc.tuple(
        names,
        fc.oneof(fc.string(), fc.dictionary(fc.constantFrom("sip.callID", "sip.trunkID"), fc.string())),
      ),
      { minLength: 1, maxLength: 6 },
    )
    fc.assert(
      fc.property(nearMisses, rules, more, ({ body }, rules, more) => {
        if (body.participant?.attributes == null) return
        const participant = { ...body.participant, attributes: extended(body.participant.attributes, more) }
        expect(endOf({ ...body, participant }, rules)).toEqual(endOf(body, rules))
      }),
      cases,
    )
    expect(({} as Record<string, unknown>)["sip.callID"]).toBeUndefined()
  })

  it("ignore event and kind names that nobody knows yet, and never fail on them", () => {
    const names = fc.string({ minLength: 1 }).filter((name) => name !== "participant_joined")
    const kinds = fc.string().filter((name) => name !== "SIP")
    fc.assert(
      fc.property(names, kinds, (name, kind) => {
        expect(endOf(joinEvent({ event: { event: name } }))).toEqual({ end: "ignored", stage: "event" })
        expect(endOf(joinEvent({ participant: { kind } }))).toEqual({ end: "ignored", stage: "participant" })
      }),
      cases,
    )
  })

  it("let every room pass whose name begins with call-, and no other", () => {
    const name = fc.oneof(
      fc.string(),
      fc.string().map((rest) => `call-${rest}`),
      fc.constantFrom("call", "cal-l", "CALL-1", "\u200bcall-1", "call‐1"),
    )
    fc.assert(
      fc.property(name, (name) => {
        const passes = name.length >= 5 && [..."call-"].every((char, at) => name[at] === char)
        expect(endOf(joinEvent({ room: { name } })).end).toBe(passes ? "call" : "ignored")
      }),
      cases,
    )
  })
})

describe("the attributes", () => {
  const extracted = (attributes: Record<string, string>, identity = "sip_+15551234567") =>
    endOf(joinEvent({ attributes, participant: { identity } }))

  it("come out as they came, to the last character", () => {
    const anything = fc.string({ unit: "binary", minLength: 1 }).map((text) => text.toWellFormed())
    fc.assert(
      fc.property(anything, anything, anything, anything, (caller, dialed, trunk, call) => {
        const attributes = {
          "sip.phoneNumber": caller,
          "sip.trunkPhoneNumber": dialed,
          "sip.trunkID": trunk,
          "sip.callID": call,
        }
        expect(extracted(attributes)).toEqual({
          end: "call",
          callerNumber: caller,
          dialedNumber: dialed,
          trunkId: trunk,
          callId: call,
        })
      }),
      cases,
    )
  })

  it("are the empty string where LiveKit says nothing", () => {
    expect(extracted({}, "sip_anonymous")).toEqual({
      end: "call",
      callerNumber: "",
      dialedNumber: "",
      trunkId: "",
      callId: "",
    })
    expect(endOf(joinEvent({ participant: { attributes: null, identity: null } }))).toMatchObject({
      callerNumber: "",
      callId: "",
    })
  })

  it("take the caller from the identity only where sip.phoneNumber is missing", () => {
    fc.assert(
      fc.property(identities, fc.option(numbers, { nil: "" }), ({ identity, number }, phone) => {
        expect(extracted({ "sip.phoneNumber": phone }, identity)).toMatchObject({
          callerNumber: phone || number,
        })
        expect(extracted({}, identity)).toMatchObject({ callerNumber: number })
      }),
      cases,
    )
  })

  it("leave a hidden caller empty, also where its hash has digits only", () => {
    fc.assert(
      fc.property(fc.oneof(hex, sixteenDigits), (hash) => {
        expect(extracted({}, `sip_${hash}`)).toMatchObject({ callerNumber: "" })
      }),
      cases,
    )
  })

  it.each([
    ["sip_+15551234567", "+15551234567"],
    ["sip-15551234567", "15551234567"],
    ["sip_5550001113", "5550001113"],
    ["sip_anonymous", ""],
    ["sip_alice.b-c", ""],
    ["sip_7a8e1bad42416f9a", ""],
    ["sip-participant", ""],
    ["15551234567", ""],
  ])("find in the identity %s the number %j", (identity, number) => {
    expect(extracted({}, identity)).toMatchObject({ callerNumber: number })
  })

  it("prefer sip.calledNumber, which integrations set, to the number of the trunk", () => {
    const attributes = { "sip.calledNumber": "+15550000001", "sip.trunkPhoneNumber": "+15550000002" }
    expect(extracted(attributes)).toMatchObject({ dialedNumber: "+15550000001" })
    expect(extracted({ ...attributes, "sip.calledNumber": "" })).toMatchObject({
      dialedNumber: "+15550000002",
    })
  })

  it("are not made up from an attribute called __proto__ or constructor", () => {
    const attributes =
      '{"__proto__":{"sip.callID":"SCL_evil","sip.phoneNumber":"+1"},"constructor":"SCL_evil","sip.trunkID":"ST_in"}'
    const body = JSON.stringify(joinEvent({ participant: { attributes: 0, identity: "sip_x" } })).replace(
      '"attributes":0',
      `"attributes":${attributes}`,
    )
    expect(endOfBytes(bytes(body))).toEqual({
      end: "call",
      callerNumber: "",
      dialedNumber: "",
      trunkId: "ST_in",
      callId: "",
    })
  })
})

describe("protojson", () => {
  const decoded = (body: unknown) => Effect.runSync(decodeEvent(bytes(JSON.stringify(body))))
  const kinds = ["STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT"]

  it("means the same with int64 as string or number, enums by name or number, and null for what is absent", () => {
    const time = fc.option(fc.nat({ max: 4_000_000_000 }), { nil: undefined })
    const kind = fc.option(fc.nat(kinds.length - 1), { nil: undefined })
    fc.assert(
      fc.property(time, time, time, time, time, kind, (created, room, roomMs, joined, joinedMs, kind) => {
        const form = (
          int64: (value: number) => string | number,
          named: boolean,
          absent: null | undefined,
        ) => {
          const time = (value: number | undefined) => (value === undefined ? absent : int64(value))
          return {
            event: "participant_joined",
            id: absent,
            createdAt: time(created),
            room: { name: absent, creationTime: time(room), creationTimeMs: time(roomMs) },
            participant: {
              identity: absent,
              kind: kind === undefined ? absent : named ? kinds[kind] : kind,
              joinedAt: time(joined),
              joinedAtMs: time(joinedMs),
              attributes: absent,
            },
          }
        }
        const usual = decoded(form(String, true, undefined))
        expect(decoded(form(Number, false, undefined))).toEqual(usual)
        expect(decoded(form(String, false, null))).toEqual(usual)
        expect(decoded(form(Number, true, null))).toEqual(usual)
        expect(usual).toEqual({
          event: "participant_joined",
          id: "",
          createdAtMs: (created ?? 0) * 1000,
          room: { sid: "", name: "", creationTimeMs: roomMs || (room ?? 0) * 1000 },
          participant: {
            sid: "",
            identity: "",
            kind: kinds[kind ?? 0],
            joinedAtMs: joinedMs || (joined ?? 0) * 1000,
            attributes: new Map(),
            disconnectReason: "UNKNOWN_REASON",
          },
        })
      }),
      cases,
    )
  })

  it("takes the numbers of kinds that it does not know for kinds that are not SIP", () => {
    for (const kind of [-1, 5, 7, 8, 2.5, 1e300]) {
      expect(endOf(joinEvent({ participant: { kind } })), String(kind)).toEqual({
        end: "ignored",
        stage: "participant",
      })
    }
  })
})
