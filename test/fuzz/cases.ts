// What the intake is fuzzed with: requests, and sequences of them about one call, each with what it has to be answered.

import fc from "fast-check"
import { joinEvent, recorded, recordings } from "../support/events.ts"
import type { TokenParts } from "../support/tokens.ts"

/** Stands for what is unique to one run of a case, wherever it occurs: a case that is run again is a new call. */
export const nonce = "NONCE"

export const paths = {
  dispatch: "/api/v1/livekit/webhook",
  events: "/api/v1/webhooks/livekit/events",
  sessions: "/api/v1/webhooks/livekit",
  ask: "/api/v1/webhooks/livekit/sip-inbound",
} as const
export type Url = keyof typeof paths

/** How a request is signed. */
export interface Signing {
  /** The header, `%` being the token or the HMAC. */
  readonly header: "authorization" | "x-livekit-signature"
  readonly form: string
  readonly token?: TokenParts
  /** What is done to the token or the HMAC: one bit of one part is turned, a part is lost, and so on. */
  readonly damage?: { readonly how: Damage; readonly at: number }
  /** Whether all of this is a valid signature, an invalid one, or none at all. */
  readonly is: "valid" | "invalid" | "missing"
}

export const damages = ["turn a bit", "drop a part", "repeat a part", "swap parts", "cut"] as const
export type Damage = (typeof damages)[number]

/** One request. */
export interface Delivery {
  readonly url: Url
  readonly text: string
  /** `latin1` where the bytes are to be no UTF-8. */
  readonly encoding: "utf8" | "latin1"
  readonly signing: Signing
  /** The bit that is turned after signing. */
  readonly turned?: number
  readonly headers: Readonly<Record<string, string>>
  /** How often it is sent at once. */
  readonly times: number
  /** What is known beforehand of the answer of a call's own story. */
  readonly expects?: "handed over" | "replayed" | "ignored"
}

/** A case: deliveries in this order, and what must be true of its call afterwards, where that is known. */
export interface Case {
  readonly deliveries: ReadonlyArray<Delivery>
  /** How often a worker must have got the call. */
  readonly relays?: number
  /** Whether the call has a row; only stories without any mutation know. */
  readonly row?: boolean
}

/** The `sip.callID` of a story's call. */
export const storyCall: string = `SCL_story_${nonce}`

// ---- Values nobody expects

// Numbers that JSON can write and JSON.stringify does not stand between marks, and lose them in the text.
const literal = (number: string) => `#${number}#`
const unmark = (text: string) => text.replaceAll(/"#([^#"]{1,40})#"/g, "$1")

const nested = (depth: number) => {
  let value: unknown = "deep"
  for (let level = 0; level < depth; level++) value = level % 2 === 0 ? [value] : { in: value }
  return value
}

const withKeys = (names: ReadonlyArray<string>, value: unknown) => {
  const made = {}
  // By assignment `__proto__` would not become a key.
  for (const name of names)
    Object.defineProperty(made, name, { value, enumerable: true, configurable: true, writable: true })
  return made
}

const prototypeKeys = [
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "valueOf",
  "then",
]

// Any UTF-16 unit, halves of surrogate pairs among them. Those of fast-check's own take seconds to prepare.
const unit = fc.oneof(
  fc.nat(0x24f).map((code) => String.fromCharCode(code)),
  fc.nat(0xffff).map((code) => String.fromCharCode(code)),
)
const anyUnits = (maxLength: number) => fc.string({ unit, maxLength })

const oddText = fc.oneof(
  fc.constantFrom(
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfffx",
    "\u0001\u001f\u007f",
    "\u2028\u202e",
    "💥",
    "null",
    "call-",
    "call-\0",
    "call-'; DROP TABLE calls; --",
    "sip_",
    "sip_\0",
    "+1555123456789012345678901234567890",
    "sip:+15551234567@host",
    "%00",
    ...prototypeKeys,
  ),
  anyUnits(40),
  // Long ones cost time, so there are few.
  { weight: 1, arbitrary: fc.constantFrom(201, 2_700, 9_000, 70_000).map((length) => "x".repeat(length)) },
)

const oddNumber = fc.oneof(
  fc.constantFrom(0, -1, 1, 1.5, 2 ** 31, 2 ** 53, -(2 ** 63), 1e21, 1e308, 5e-324, 8.64e15, 253_402_300_800),
  fc.constantFrom("1e400", "-1e400", "-0", "99999999999999999999", "0.1e-999").map(literal),
  fc.integer(),
  fc.double({ noNaN: true }),
)

const oddTime = fc.oneof(
  fc.constantFrom(
    "0",
    "-1",
    "1e3",
    " 12 ",
    "0x10",
    "NaN",
    "Infinity",
    "9007199254740991",
    "8640000000000001",
  ),
  fc.constantFrom(
    "9223372036854775807",
    "-9223372036854775808",
    "1".repeat(60),
    "253402300800",
    "1763740800",
  ),
  fc.bigInt({ min: -(2n ** 64n), max: 2n ** 64n }).map(String),
)

const oddValue: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 3, arbitrary: oddText },
  { weight: 2, arbitrary: oddNumber },
  { weight: 2, arbitrary: oddTime },
  {
    weight: 1,
    arbitrary: fc.constantFrom<unknown>(null, true, false, [], {}, [null], [[]], { a: { b: 1 } }),
  },
  { weight: 1, arbitrary: fc.constantFrom(...prototypeKeys).map((name) => withKeys([name], { sid: 1 })) },
  { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
  { weight: 1, arbitrary: fc.constantFrom(10, 500).map(nested) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(50, 500).map((count) =>
      withKeys(
        Array.from({ length: count }, (_, index) => `key${index}`),
        "v",
      ),
    ),
  },
)

// ---- Mutations of an event

type Change =
  | { readonly do: "drop" | "retype" | "wrap in a list" | "wrap in an object" }
  | { readonly do: "rename"; readonly to: string }
  | { readonly do: "replace" | "add"; readonly by: unknown }

const newNames = ["", "event", "Event", "room.sid", "sip.callID", "attributes", "id", "\0", ...prototypeKeys]

const change: fc.Arbitrary<Change> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("drop" as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("retype" as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constantFrom("wrap in a list" as const, "wrap in an object" as const) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant("rename" as const), to: fc.constantFrom(...newNames) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constantFrom("replace" as const, "add" as const), by: oddValue }),
  },
)

const mutation = fc.record({ at: fc.nat(10_000), change })
type Mutation = typeof mutation extends fc.Arbitrary<infer A> ? A : never

interface Slot {
  readonly parent: Record<string, unknown>
  readonly name: string
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null

const slotsOf = (parent: Record<string, unknown>): ReadonlyArray<Slot> =>
  Object.keys(parent).flatMap((name) => {
    const value = parent[name]
    return [{ parent, name }, ...(isObject(value) ? slotsOf(value) : [])]
  })

const put = (parent: Record<string, unknown>, name: string, value: unknown) =>
  Object.defineProperty(parent, name, { value, enumerable: true, configurable: true, writable: true })

const retyped = (value: unknown): unknown => {
  switch (typeof value) {
    case "string":
      return Number.isFinite(Number(value)) && value !== "" ? Number(value) : [value]
    case "number":
      return String(value)
    case "boolean":
      return value ? "true" : 0
    default:
      return value === null ? "null" : JSON.stringify(value)
  }
}

// Values are used in many cases, and none may find what another has made of them. A structured clone would do, too,
// but not keep a key `__proto__` everywhere.
const cloned = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

const apply = ({ name, parent }: Slot, made: Change): void => {
  const value = parent[name]
  switch (made.do) {
    case "drop":
      delete parent[name]
      return
    case "retype":
      put(parent, name, retyped(value))
      return
    case "wrap in a list":
      put(parent, name, [value])
      return
    case "wrap in an object":
      put(parent, name, { [name]: value })
      return
    case "rename":
      delete parent[name]
      put(parent, made.to, value)
      return
    case "replace":
      put(parent, name, cloned(made.by))
      return
    case "add":
      put(isObject(value) ? value : parent, `added ${name}`, cloned(made.by))
  }
}

const mutated = (event: unknown, mutations: ReadonlyArray<Mutation>): unknown => {
  const copy = cloned(event)
  if (!isObject(copy)) return copy
  for (const { at, change: made } of mutations) {
    const slots = slotsOf(copy)
    if (slots.length > 0) apply(slots[at % slots.length]!, made)
  }
  return copy
}

// ---- Odd values of the right type, where somebody looks at them

const timeFields = [
  ["createdAt"],
  ["room", "creationTime"],
  ["room", "creationTimeMs"],
  ["participant", "joinedAt"],
  ["participant", "joinedAtMs"],
] as const

const attributeNames = [
  "callID",
  "callIDFull",
  "phoneNumber",
  "trunkPhoneNumber",
  "calledNumber",
  "trunkID",
  "ruleID",
  "callStatus",
].map((name) => `sip.${name}`)

const textFields = [
  ["id"],
  ["room", "sid"],
  ["room", "name"],
  ...["sid", "identity", "kind", "disconnectReason"].map((name) => ["participant", name]),
  ...attributeNames.map((name) => ["participant", "attributes", name]),
]

const questionFields = [
  "call_id",
  "from_number",
  "to_number",
  "trunk_id",
  "trunk_phone_number",
  "room_name",
  "timestamp",
]

interface Aim {
  readonly field: ReadonlyArray<string>
  readonly value: unknown
}

// Half of them belong to one call each, the other half are what many calls have in common.
const aimedText = fc
  .record({ text: oddText, before: fc.constantFrom("", "", "call-"), after: fc.constantFrom("", nonce) })
  .map(({ after, before, text }) => before + text + after)

const aimedAtEvent: fc.Arbitrary<Aim> = fc.oneof(
  fc.record({ field: fc.constantFrom(...timeFields), value: fc.oneof(oddTime, oddNumber) }),
  { weight: 2, arbitrary: fc.record({ field: fc.constantFrom(...textFields), value: aimedText }) },
)

const aimedAtQuestion: fc.Arbitrary<Aim> = fc.record({
  field: fc.constantFrom(...questionFields).map((name) => [name]),
  value: aimedText,
})

const aimed = (event: unknown, aims: ReadonlyArray<Aim>): unknown => {
  const copy = cloned(event)
  for (const { field, value } of aims) {
    let parent = copy
    for (const name of field.slice(0, -1)) parent = isObject(parent) ? parent[name] : undefined
    if (isObject(parent)) put(parent, field.at(-1) ?? "", value)
  }
  return copy
}

// ---- Mutations of the text

const textChanges: Record<string, (text: string) => string> = {
  none: (text) => text,
  "a BOM": (text) => `\ufeff${text}`,
  "white space": (text) => ` \r\n\t${text.replaceAll('":', '"  :\n ')}\n\n`,
  "an event twice": (text) => text.replace("{", '{"event":"room_finished",'),
  "a participant twice": (text) => text.replace("{", '{"participant":{"kind":"SIP"},"participant":null,'),
  escapes: (text) =>
    text.replaceAll(/"([a-z])/g, (_, letter: string) => `"\\u00${letter.charCodeAt(0).toString(16)}`),
  "a bare NUL": (text) => text.replace('":"', '":"\0'),
  "cut off": (text) => text.slice(0, Math.floor(text.length * 0.7)),
  "something behind": (text) => `${text}{}`,
  "a comment": (text) => `/* */${text}`,
  "a list around": (text) => `[${text}]`,
  "a text around": (text) => JSON.stringify(text),
}
const textChange = fc.constantFrom(...Object.keys(textChanges))

// ---- Events as LiveKit makes them

// All events of one run are of about the same time: its rooms are neither new nor old in any other way.
const startMs = Date.now()
const seconds = (ms: number) => String(Math.floor(ms / 1000))

const times = (ms: number) => ({ joinedAt: seconds(ms), joinedAtMs: String(ms) })

const room = {
  sid: `RM_${nonce}`,
  name: `call-_+15551234567_${nonce}`,
  creationTime: seconds(startMs),
  creationTimeMs: String(startMs),
}

/** An event of the story's call; its caller's join number `join` lies so many seconds after the first. */
const storyEvent = (event: string, join: number, participant: Record<string, unknown> = {}) =>
  joinEvent({
    callId: storyCall,
    room,
    participant: { sid: `PA_${nonce}_${join}`, ...times(startMs + join * 1_000), ...participant },
    event: { event, id: `EV_${nonce}_${event}_${join}`, createdAt: seconds(startMs + join * 1_000) },
  })

const agent = { kind: "AGENT", identity: `agent-${nonce}`, attributes: {}, ...times(startMs + 5_000) }

const question = {
  call_id: storyCall,
  from_number: "+15551234567",
  to_number: "+15557654321",
  trunk_id: "ST_in",
  room_name: room.name,
  timestamp: new Date(startMs).toISOString(),
}

const names = [
  "room_started",
  "room_finished",
  "participant_joined",
  "participant_left",
  "participant_connection_aborted",
  "track_published",
  "track_unpublished",
  "egress_started",
  "ingress_ended",
  "room.finished",
  "room.closed",
  "participant.connected",
  "participant.disconnected",
  "an_event_of_tomorrow",
]

// What a recording is about gets a name of its own in each run, or all runs would be about the same call.
const renamed = (body: string) =>
  body.replaceAll(/\b(SCL|RM|PA|EV)_\w+/g, `$&${nonce}`).replaceAll(/"name":"call-[^"]*/g, `$&${nonce}`)
const recordedEvents = recordings.map((name) => recorded(name).map(({ body }) => renamed(body)))

const anyEvent: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 5, arbitrary: fc.constant(null).map(() => storyEvent("participant_joined", 0)) },
  {
    weight: 3,
    arbitrary: fc
      .record({ name: fc.constantFrom(...names), join: fc.nat(3) })
      .map(({ join, name }) => storyEvent(name, join)),
  },
  { weight: 2, arbitrary: fc.constantFrom(...recordedEvents.flat()).map((body) => JSON.parse(body)) },
)

// ---- Signatures

const validToken = (form = "%", token: TokenParts = {}): Signing => ({
  header: "authorization",
  form,
  token,
  is: "valid",
})
const validHmac: Signing = { header: "x-livekit-signature", form: "%", is: "valid" }

const goodForms = ["%", "Bearer %", "bearer %", "BEARER %", "Bearer   %", "Bearer\t%", "% ", "Bearer % "]
const badForms = [
  "Bearer Bearer %",
  "Basic %",
  "%.x",
  '"%"',
  "%,%",
  "% %",
  "Bearer=%",
  "x%",
  "Token %",
  ".%",
  "a.b.c",
]
const noForms = ["", "Bearer", "Bearer ", " "]

const nowS = () => Math.floor(Date.now() / 1000)

const harmlessParts: ReadonlyArray<() => TokenParts> = [
  () => ({}),
  () => ({ header: { kid: "../../etc/passwd" } }),
  () => ({ header: { typ: "at+jwt", jku: "http://127.0.0.1:1/", x5u: "http://127.0.0.1:1/" } }),
  () => ({ claims: { exp: nowS() - 30 } }),
  () => ({ claims: { exp: nowS() + 10 ** 9, nbf: 0 } }),
  () => ({ claims: { video: { roomAdmin: true }, sub: "x".repeat(3_000) } }),
  () => ({ claims: { nbf: undefined, iat: undefined } }),
]

const wrongParts: ReadonlyArray<() => TokenParts> = [
  () => ({ secret: "another-secret-another-secret-another" }),
  () => ({ key: "somebody" }),
  () => ({ key: "__proto__" }),
  () => ({ key: "" }),
  () => ({ alg: "none" }),
  () => ({ alg: "HS512" }),
  () => ({ header: { alg: "hs256" } }),
  () => ({ header: { alg: "RS256" } }),
  () => ({ header: { alg: ["HS256"] } }),
  () => ({ header: { crit: ["exp"] } }),
  () => ({ header: { crit: ["b64"], b64: false } }),
  () => ({ header: { crit: [] } }),
  () => ({ claims: { iss: ["devkey"] } }),
  () => ({ claims: { iss: { toString: "devkey" } } }),
  () => ({ claims: { exp: undefined } }),
  () => ({ claims: { exp: String(nowS() + 300) } }),
  () => ({ claims: { exp: nowS() - 120 } }),
  () => ({ claims: { exp: -1 } }),
  () => ({ claims: { nbf: nowS() + 600 } }),
  () => ({ claims: { nbf: "0" } }),
  () => ({ claims: { sha256: undefined } }),
  () => ({ claims: { sha256: "" } }),
  () => ({ claims: { sha256: ["x"] } }),
  () => ({ claims: { sha256: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU" } }),
  () => ({ claims: { sha256: "x".repeat(5_000) } }),
]

const validSigning: fc.Arbitrary<Signing> = fc.oneof(
  { weight: 6, arbitrary: fc.constant(validToken()) },
  {
    weight: 2,
    arbitrary: fc
      .record({ form: fc.constantFrom(...goodForms), parts: fc.constantFrom(...harmlessParts) })
      .map(({ form, parts }) => validToken(form, parts())),
  },
)

const damage = fc.record({ how: fc.constantFrom(...damages), at: fc.nat(100_000) })

const brokenToken: fc.Arbitrary<Signing> = fc.oneof(
  fc.constantFrom(...wrongParts).map((parts): Signing => ({ ...validToken("%", parts()), is: "invalid" })),
  fc.constantFrom(...badForms).map((form): Signing => ({ ...validToken(form), is: "invalid" })),
  damage.map((damage): Signing => ({ ...validToken(), damage, is: "invalid" })),
  fc.constantFrom(...noForms).map((form): Signing => ({ ...validToken(form), is: "missing" })),
)

const brokenHmac: fc.Arbitrary<Signing> = fc.oneof(
  damage.map((damage): Signing => ({ ...validHmac, damage, is: "invalid" })),
  fc
    .constantFrom("sha1=%", "%0", "0%", "x", "%,%", "0x%", "sha256==%")
    .map((form): Signing => ({ ...validHmac, form, is: "invalid" })),
)

const validForAsking: fc.Arbitrary<Signing> = fc.oneof(
  validSigning,
  fc.constantFrom("%", "sha256=%", "SHA256=%", " % ").map((form): Signing => ({ ...validHmac, form })),
)

// ---- Requests

const contentTypes = [
  "application/webhook+json",
  "application/json; charset=utf-16",
  "text/plain",
  "application/x-www-form-urlencoded",
  "multipart/form-data; boundary=x",
  "",
  "nonsense",
]

const headers: fc.Arbitrary<Record<string, string>> = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ "content-type": "application/webhook+json" }) },
  {
    weight: 1,
    arbitrary: fc.record(
      {
        "content-type": fc.constantFrom(...contentTypes),
        "content-encoding": fc.constantFrom("gzip", "identity", "br, gzip", "x"),
        "transfer-encoding": fc.constant("chunked"),
        "x-forwarded-for": fc.constantFrom("1.2.3.4", "::1, x, ", "x".repeat(2_000)),
        "idempotency-key": fc.constant("somebody's"),
        traceparent: fc.constantFrom("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nonsense"),
        "if-none-match": fc.constant("*"),
        range: fc.constant("bytes=0-1"),
        cookie: fc.constantFrom("a=b; __proto__=c", "x".repeat(1_000)),
      },
      { requiredKeys: ["content-type"] },
    ) as fc.Arbitrary<Record<string, string>>,
  },
)

const livekitUrl = fc.constantFrom<Url>("dispatch", "dispatch", "events", "sessions")

/** What may become of an event or a question: odd values, and sometimes an odd shape or an odd text as well. */
const changed = (original: fc.Arbitrary<unknown>, aim: fc.Arbitrary<Aim>): fc.Arbitrary<string> =>
  fc
    .record({
      original,
      aims: fc.array(aim, { maxLength: 3 }),
      mutations: fc.oneof(fc.constant([]), fc.array(mutation, { maxLength: 4 })),
      by: fc.oneof({ weight: 3, arbitrary: fc.constant("none") }, { weight: 1, arbitrary: textChange }),
    })
    .map(({ aims, by, mutations, original: from }) =>
      textChanges[by]!(unmark(JSON.stringify(mutated(aimed(from, aims), mutations)))),
    )

const eventText = changed(anyEvent, aimedAtEvent)
const questionText = changed(fc.constant(question), aimedAtQuestion)

const anyText = fc.oneof(
  { weight: 3, arbitrary: fc.json({ maxDepth: 3 }) },
  { weight: 2, arbitrary: oddValue.map((value) => unmark(JSON.stringify(value))) },
  { weight: 2, arbitrary: anyUnits(200) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      "",
      "{",
      "nul",
      "\ufeff",
      "\ufeff{}",
      "[]",
      "{}",
      "0",
      '"',
      '{"event":1}',
      '{"event":""}',
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom('{"event":"x","room":{"sid":"\\ud8', "NaN", "{'event':'x'}", "a=b&c=d"),
  },
)

const request = (url: fc.Arbitrary<Url>, text: fc.Arbitrary<string>, signing: fc.Arbitrary<Signing>) =>
  fc
    .record({
      url,
      text,
      encoding: fc.oneof(
        { weight: 9, arbitrary: fc.constant("utf8" as const) },
        { weight: 1, arbitrary: fc.constant("latin1" as const) },
      ),
      signing,
      headers,
      times: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.constant(2) }),
    })
    .map((made): Delivery => made)

const oddEvent = request(livekitUrl, eventText, validSigning)
const oddQuestion = request(fc.constant("ask"), questionText, validForAsking)
const noEvent = request(fc.constantFrom<Url>("dispatch", "events", "sessions", "ask"), anyText, validSigning)

const unsigned = fc.oneof(
  request(livekitUrl, fc.oneof(eventText, anyText), brokenToken),
  request(fc.constant("ask"), fc.oneof(questionText, anyText), fc.oneof(brokenToken, brokenHmac)),
)

const turned = fc
  .record({ delivery: fc.oneof(oddEvent, oddQuestion), turned: fc.nat() })
  .map(({ delivery, turned: bit }): Delivery => ({ ...delivery, turned: bit }))

/** A body around the limit, which lies at 1 MiB. */
const largest = 1024 * 1024
const large = fc
  .record({
    url: livekitUrl,
    over: fc.constantFrom(-100, 0, 1, 5_000),
    signing: fc.oneof(validSigning, brokenToken),
  })
  .map(({ over, signing, url }): Delivery => {
    const event = JSON.stringify({ event: "track_published", id: `EV_${nonce}`, padding: "" })
    const padding = "x".repeat(largest + over - event.length)
    return {
      url,
      text: event.replace('""', `"${padding}"`),
      encoding: "utf8",
      signing,
      headers: {},
      times: 1,
    }
  })

// ---- Stories: a call's own events, unchanged, in any order

const step = fc.record({
  what: fc.oneof(
    { weight: 4, arbitrary: fc.constant("join" as const) },
    { weight: 2, arbitrary: fc.constant("leave" as const) },
    {
      weight: 3,
      arbitrary: fc.constantFrom(
        "abort" as const,
        "answer" as const,
        "start" as const,
        "finish" as const,
        "ask" as const,
        "track" as const,
      ),
    },
  ),
  join: fc.nat(3),
  url: livekitUrl,
  hmac: fc.boolean(),
  times: fc.constantFrom(1, 1, 1, 1, 2, 3),
})
type Step = typeof step extends fc.Arbitrary<infer A> ? A : never

const textOf = ({ join, what }: Step): string => {
  switch (what) {
    case "join":
      return JSON.stringify(storyEvent("participant_joined", join))
    case "leave":
      return JSON.stringify(storyEvent("participant_left", join, { disconnectReason: "CLIENT_INITIATED" }))
    case "abort":
      return JSON.stringify(storyEvent("participant_connection_aborted", join))
    case "answer":
      return JSON.stringify(storyEvent("participant_joined", join, agent))
    case "start":
      return JSON.stringify(storyEvent("room_started", join))
    case "finish":
      return JSON.stringify(storyEvent("room_finished", join))
    case "track":
      return JSON.stringify(storyEvent("track_published", join))
    case "ask":
      return JSON.stringify(question)
  }
}

/** What the README says of the call so far. */
interface Told {
  taken: boolean
  /** The latest join and leave of the caller; −1 for none. */
  joined: number
  left: number
  /** Its end was told otherwise: when that was is the database's to say. */
  ended: boolean
}

// `undefined` where the end of the call came another way than by the leave of its caller.
const expectedOf = ({ join, url, what }: Step, told: Told): Delivery["expects"] => {
  if (what === "ask") {
    if (!told.ended && (told.left < told.joined || told.left < 0)) told.taken = true
    return undefined
  }
  if (what === "join") told.joined = Math.max(told.joined, join)
  if (what === "leave") told.left = Math.max(told.left, join)
  if (what === "abort" || what === "finish") told.ended = true
  if (url !== "dispatch") return undefined
  if (what !== "join") return "ignored"
  if (told.taken) return "replayed"
  if (told.ended) return undefined
  if (told.left >= join) return "replayed"
  told.taken = true
  return "handed over"
}

const toStory = (steps: ReadonlyArray<Step>): Case => {
  const told: Told = { taken: false, joined: -1, left: -1, ended: false }
  const deliveries = steps.map((one): Delivery => {
    const expects = expectedOf(one, told)
    return {
      url: one.what === "ask" ? "ask" : one.url,
      text: textOf(one),
      encoding: "utf8",
      signing: one.what === "ask" && one.hmac ? validHmac : validToken(),
      headers: { "content-type": "application/webhook+json" },
      times: one.times,
      ...(expects === undefined ? {} : { expects }),
    }
  })
  const row = steps.some(({ what }) => ["join", "leave", "abort", "ask"].includes(what))
  if (told.ended) return { deliveries, row }
  const relays = deliveries.filter(({ expects }) => expects === "handed over").length
  return { deliveries, row, relays }
}

const story = fc.array(step, { minLength: 1, maxLength: 6 }).map(toStory)

/** A recording, played whole, in any order and to any URL. */
const replayed = fc
  .record({
    events: fc
      .constantFrom(...recordedEvents)
      .chain((events) => fc.shuffledSubarray(events, { minLength: 1 })),
    url: livekitUrl,
  })
  .map(({ events: bodies, url }): Case => {
    const deliver = (text: string): Delivery => ({
      url,
      text,
      encoding: "utf8",
      signing: validToken(),
      headers: {},
      times: 1,
    })
    return { deliveries: bodies.map(deliver) }
  })

const alone = (deliveries: ReadonlyArray<Delivery>): Case => ({ deliveries })

/** Whatever may come. */
export const anyCase: fc.Arbitrary<Case> = fc.oneof(
  { weight: 30, arbitrary: oddEvent.map((delivery) => alone([delivery])) },
  { weight: 12, arbitrary: oddQuestion.map((delivery) => alone([delivery])) },
  { weight: 12, arbitrary: noEvent.map((delivery) => alone([delivery])) },
  { weight: 15, arbitrary: unsigned.map((delivery) => alone([delivery])) },
  { weight: 8, arbitrary: turned.map((delivery) => alone([delivery])) },
  { weight: 20, arbitrary: story },
  {
    weight: 8,
    arbitrary: fc
      .array(fc.oneof(oddEvent, oddEvent, oddQuestion, unsigned, turned), { minLength: 2, maxLength: 4 })
      .map(alone),
  },
  { weight: 2, arbitrary: replayed },
  { weight: 1, arbitrary: large.map((delivery) => alone([delivery])) },
)
