// The settings `core_fleet` and `drained_workers`: which workers there are, and which of them get no new call.

import { Option, Schema } from "effect"

/** A worker as the operator wrote it down. `url` is its identity: normalised, without a trailing slash. */
export interface RosterEntry {
  readonly url: string
  readonly name: string
  /** Calls it can hold at once; unknown where neither the operator nor the worker says. */
  readonly capacity: number | undefined
  /** Its share of the traffic relative to others; 1 where nothing is said. */
  readonly weight: number
  readonly draining: boolean
}

/** The usable entries in their order, and a sentence for each that had to be left out. */
export interface Roster {
  readonly entries: ReadonlyArray<RosterEntry>
  readonly problems: ReadonlyArray<string>
}

const Positive = Schema.Finite.check(Schema.isGreaterThan(0))

const Entry = Schema.Struct({
  url: Schema.String,
  name: Schema.optionalKey(Schema.NonEmptyString),
  capacity: Schema.optionalKey(Positive),
  weight: Schema.optionalKey(Positive),
  draining: Schema.optionalKey(Schema.Boolean),
})

const decodeEntry = Schema.decodeUnknownOption(Entry)

// A password stands before an `@`, in however broken a URL.
const withoutPasswords = (_: string, value: unknown) =>
  typeof value === "string" ? value.replace(/.*@/s, "…@") : value

const show = (value: unknown): string => {
  try {
    return (JSON.stringify(value, withoutPasswords) ?? "undefined").slice(0, 120)
  } catch {
    return "an entry that is nested too deep"
  }
}

const usableUrl = (raw: string): URL | undefined => {
  const url = URL.canParse(raw.trim()) ? new URL(raw.trim()) : undefined
  const usable =
    url !== undefined &&
    /^https?:$/.test(url.protocol) &&
    url.username === "" &&
    url.password === "" &&
    url.search === "" &&
    url.hash === ""
  return usable ? url : undefined
}

const parseEntry = (value: unknown): RosterEntry | string => {
  const given = decodeEntry(typeof value === "string" ? { url: value } : value)
  if (Option.isNone(given))
    return `${show(value)} is neither a URL nor {url, name?, capacity?, weight?, draining?}`
  const { capacity, draining = false, name, url: raw, weight = 1 } = given.value
  const url = usableUrl(raw)
  if (url === undefined) {
    return `${show(raw)} is not a usable http(s) URL (no credentials, query or fragment)`
  }
  const base = `${url.origin}${url.pathname.replace(/\/+$/, "")}`
  return { url: base, name: name ?? base.replace(/^https?:\/\//, ""), capacity, weight, draining }
}

const toList = (value: unknown): ReadonlyArray<unknown> | string => {
  if (Array.isArray(value)) return value
  if (value === null || value === undefined) return []
  if (typeof value !== "string") return `core_fleet is neither a list nor a string: ${show(value)}`
  if (!value.trim().startsWith("[")) return value.split(",").filter((item) => item.trim() !== "")
  try {
    return toList(JSON.parse(value))
  } catch {
    return `core_fleet is not valid JSON: ${show(value)}`
  }
}

/**
 * Reads `core_fleet`: a list of URLs or of `{url, name?, capacity?, weight?, draining?}`, as JSON or as a
 * string of it, or a comma-separated string of URLs. Never throws: what is not usable is left out and named.
 */
export const parseRoster = (value: unknown): Roster => {
  const list = toList(value)
  if (typeof list === "string") return { entries: [], problems: [list] }
  const entries = new Map<string, RosterEntry>()
  const problems: Array<string> = []
  for (const item of list) {
    const entry = parseEntry(item)
    if (typeof entry === "string") problems.push(entry)
    else if (entries.has(entry.url)) problems.push(`${entry.url} is listed twice`)
    else entries.set(entry.url, entry)
  }
  return { entries: [...entries.values()], problems }
}

/** Whether `drained_workers` is what it has to be. */
export const isListOfNames = Schema.is(Schema.Array(Schema.NonEmptyString))

/** Reads `drained_workers`, a list of names; whatever else stands there drains nobody. */
export const parseDrained = (value: unknown): ReadonlySet<string> =>
  new Set(isListOfNames(value) ? value : [])

/** The entries, those of these names draining. */
export const drainedBy = (
  entries: ReadonlyArray<RosterEntry>,
  names: ReadonlySet<string>,
): ReadonlyArray<RosterEntry> =>
  entries.map((entry) => (names.has(entry.name) ? { ...entry, draining: true } : entry))
