// A file of phone numbers, read as a whole: which numbers it has, which lines are bad, whatever its format.

import { Effect, FileSystem } from "effect"
import type { CountryCode } from "libphonenumber-js/max"
import type { NumberType } from "../../routing/number-type.ts"
import { toE164 } from "../../routing/numbers.ts"
import { csvEntries } from "./csv-entries.ts"
import {
  type BadLine,
  badLine,
  type Entry,
  type Fields,
  FileRefused,
  fieldNames,
  type Item,
  type LeftOut,
} from "./entry.ts"
import { twilioEntries } from "./twilio-entries.ts"

export const formats = ["csv", "twilio"] as const
export type Format = (typeof formats)[number]

/** A line that names a phone number. */
export interface NumberLine {
  readonly line: number
  /** E.164. */
  readonly number: string
  /** As it stands in the file. */
  readonly raw: string
  readonly fields: Fields
  /** Where the file says it. */
  readonly type: NumberType | undefined
}

export interface NumberFile {
  readonly format: Format
  readonly numbers: ReadonlyArray<NumberLine>
  readonly bad: ReadonlyArray<BadLine>
  readonly leftOut: ReadonlyArray<LeftOut>
  readonly notes: ReadonlyArray<string>
}

/** Told how many of how many are done. */
export type Progress = (done: number, total: number) => void

// All of it is kept in memory until it is written; as much as this takes about 1.5 GB.
const largestFile = 256 * 1024 * 1024
const mostNumbers = 500_000

const refused = (message: string) => new FileRefused({ message })

const readText = Effect.fnUntraced(function* (path: string) {
  const files = yield* FileSystem.FileSystem
  const unreadable = () => refused(`${path} cannot be read.`)
  const { size, type } = yield* Effect.mapError(files.stat(path), unreadable)
  if (type !== "File") return yield* refused(`${path} is no file.`)
  if (size > largestFile) return yield* refused(`${path} is larger than 256 MiB: split it up.`)
  const bytes = yield* Effect.mapError(files.readFile(path), unreadable)
  return yield* Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => refused(`${path} is not UTF-8: export it again, as UTF-8.`),
  })
})

const formatOf = (path: string, text: string): Format => {
  if (/\.csv$/i.test(path)) return "csv"
  if (/\.json$/i.test(path)) return "twilio"
  return /^\s*[[{]/.test(text) ? "twilio" : "csv"
}

const withCountry = "Write it with its country code, like +15551234567."

const noNumber = ({ line, number }: Entry): BadLine => {
  if (number === "") return badLine(line, "", "no number", "Fill the column number, or remove the line.")
  if (/^[\d.,]+E\+?\d+$/i.test(number)) {
    const remedy = "Format the column as text in the spreadsheet, enter the numbers anew and export again."
    return badLine(line, number, "a spreadsheet has rounded the number", remedy)
  }
  if (/\p{L}/u.test(number)) return badLine(line, number, "letters are no phone number", withCountry)
  const digits = number.replace(/\D/g, "").length
  if (digits < 7) return badLine(line, number, "too short for a full phone number", withCountry)
  if (digits > 15) return badLine(line, number, "too long for a phone number", withCountry)
  return badLine(line, number, "no full phone number of any country", withCountry)
}

const withDefaults = (fields: Fields, defaults: Fields): Fields => {
  if (fieldNames.every((name) => defaults[name] === undefined)) return fields
  const value = (name: keyof Fields) => fields[name] || (defaults[name] ?? fields[name])
  return Object.fromEntries(fieldNames.map((name) => [name, value(name)])) as Fields
}

const makeReader = (region: CountryCode, defaults: Fields) => {
  const numbers: Array<NumberLine> = []
  const bad: Array<BadLine> = []
  const leftOut: Array<LeftOut> = []
  const notes: Array<string> = []
  const takeEntry = (entry: Entry) => {
    const number = toE164(entry.number, region)
    if (number === undefined) return bad.push(noNumber(entry))
    if (numbers.length === mostNumbers)
      throw refused(`The file has more than ${mostNumbers} numbers: split it up.`)
    return numbers.push({
      line: entry.line,
      number,
      raw: entry.number,
      fields: withDefaults(entry.fields, defaults),
      type: entry.type,
    })
  }
  const take = (item: Item) => {
    if (item._tag === "Entry") return takeEntry(item)
    if (item._tag === "BadLine") return bad.push(item)
    return item._tag === "Note" ? notes.push(item.text) : leftOut.push(item)
  }
  return { take, result: { numbers, bad, leftOut, notes } }
}

// Often enough for a bar that moves, and for a Ctrl-C to be heard.
const itemsAtOnce = 2_000

const takeSome = (items: Iterator<Item>, take: (item: Item) => unknown): number | undefined => {
  let line = 0
  for (let count = 0; count < itemsAtOnce; count++) {
    const next = items.next()
    if (next.done === true) return undefined
    if ("line" in next.value) line = next.value.line
    take(next.value)
  }
  return line
}

const lineCount = (text: string): number => {
  let count = 1
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) count++
  return count
}

/** Reads a file; `defaults` stand in for what a line leaves out or empty. Fails where none of it can be used. */
export const readNumberFile = Effect.fnUntraced(function* (
  path: string,
  options: {
    readonly format: Format | undefined
    readonly region: CountryCode
    readonly defaults: Fields
    readonly progress: Progress
  },
): Effect.fn.Return<NumberFile, FileRefused, FileSystem.FileSystem> {
  const text = yield* readText(path)
  const format = options.format ?? formatOf(path, text)
  const items = format === "csv" ? csvEntries(text) : twilioEntries(text)
  const reader = makeReader(options.region, options.defaults)
  const lines = lineCount(text)
  while (true) {
    const some = yield* Effect.try({
      try: () => takeSome(items, reader.take),
      catch: (error) => (error instanceof FileRefused ? error : refused(String(error))),
    })
    if (some === undefined) return { format, ...reader.result }
    options.progress(some, lines)
    yield* Effect.yieldNow
  }
})
