// What a request has to be answered, by the README's word alone, and whether an answer is that.

import type { Delivery, Url } from "./cases.ts"

/** An answer as it came. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  readonly body: string
}

/** The classes of answers. */
export type Class = "ok" | "no event" | "not signed" | "not validly signed" | "too large"

const largest = 1024 * 1024

const parse = (bytes: Uint8Array): { readonly json: unknown } | undefined => {
  try {
    return { json: JSON.parse(new TextDecoder().decode(bytes)) }
  } catch {
    return undefined
  }
}

type Fields = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const own = (fields: Fields, name: string): unknown =>
  Object.hasOwn(fields, name) ? fields[name] : undefined

// What protojson leaves out it may also write as null.
const may = (fields: Fields, names: ReadonlyArray<string>, ...types: ReadonlyArray<string>) =>
  names.every((name) => {
    const value = own(fields, name)
    return value === undefined || value === null || types.includes(typeof value)
  })

const part = (fields: Fields, name: string, is: (part: Fields) => boolean) => {
  const value = own(fields, name)
  return value === undefined || value === null || (isObject(value) && is(value))
}

/** An event has a name, and no field that is used is of a type that LiveKit never writes there. */
const isEvent = (json: unknown): boolean =>
  isObject(json) &&
  typeof own(json, "event") === "string" &&
  own(json, "event") !== "" &&
  may(json, ["id"], "string") &&
  may(json, ["createdAt"], "string", "number") &&
  part(
    json,
    "room",
    (room) =>
      may(room, ["sid", "name"], "string") &&
      may(room, ["creationTime", "creationTimeMs"], "string", "number"),
  ) &&
  part(
    json,
    "participant",
    (participant) =>
      may(participant, ["sid", "identity"], "string") &&
      may(participant, ["kind", "disconnectReason", "joinedAt", "joinedAtMs"], "string", "number") &&
      part(participant, "attributes", () => true),
  )

/** The class of answers that these bytes, sent like that, must get. */
export const classOf = ({ signing, turned, url }: Delivery, bytes: Uint8Array): Class => {
  // Without any header at all nothing is read.
  if (signing.form.trim() === "") return "not signed"
  if (bytes.length > largest) return "too large"
  if (signing.is === "missing") return "not signed"
  if (signing.is === "invalid" || (turned !== undefined && bytes.length > 0)) return "not validly signed"
  const parsed = parse(bytes)
  if (parsed === undefined) return "no event"
  // Nothing stops a call: whatever is asked is answered.
  return url === "ask" || isEvent(parsed.json) ? "ok" : "no event"
}

const refusals = {
  "no event": [400, "Invalid payload", "E_WEBHOOK_INVALID_PAYLOAD"],
  "not signed": [401, "Missing auth", "E_WEBHOOK_MISSING_AUTH"],
  "not validly signed": [401, "Invalid signature", "E_WEBHOOK_INVALID_SIGNATURE"],
  "too large": [413, "Payload too large", "E_WEBHOOK_PAYLOAD_TOO_LARGE"],
} as const

const isRefusal = (url: Url, refusal: Exclude<Class, "ok">, { headers, status }: Answer, json: Fields) => {
  const [expected, detail, code] = refusals[refusal]
  if (status !== expected) return false
  if (url === "sessions") return json["success"] === false && json["errcode"] === code
  return (
    headers["content-type"] === "application/problem+json" &&
    json["detail"] === detail &&
    json["status"] === status
  )
}

const isText = (value: unknown): value is string => typeof value === "string"

const isGood: { readonly [Each in Url]: (json: Fields) => boolean } = {
  dispatch: (json) => json["ok"] === true,
  events: (json) => json["success"] === true,
  sessions: ({ results, success }) =>
    success === true && isObject(results) && results["processed"] === true && isText(results["event_type"]),
  ask: ({ agent_name, attributes, metadata }) =>
    isText(agent_name) &&
    isText(metadata) &&
    isObject(JSON.parse(metadata)) &&
    isObject(attributes) &&
    attributes["inbound"] === "true",
}

/** Whether the answer is one of that class, in the URL's own form. */
export const isOf = (wanted: Class, url: Url, answer: Answer): boolean => {
  const json = parse(Buffer.from(answer.body))?.json
  if (!isObject(json) || answer.headers["retry-after"] !== undefined) return false
  if (wanted !== "ok") return isRefusal(url, wanted, answer, json)
  return answer.status === 200 && isGood[url](json)
}

const isReplay = ({ headers }: Answer) => headers["switchhook-replayed"] === "true"

/** What is wrong with the answers to one delivery of a call's story, which came together; `undefined` where nothing is. */
export const wrongInStory = (
  expects: NonNullable<Delivery["expects"]>,
  answers: ReadonlyArray<Answer>,
): string | undefined => {
  const replays = answers.filter(isReplay).length
  const wanted = { "handed over": answers.length - 1, replayed: answers.length, ignored: 0 }[expects]
  return replays === wanted
    ? undefined
    : `${replays} of ${answers.length} are replays: it is to be ${expects}`
}
