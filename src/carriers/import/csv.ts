// Comma-separated values as RFC 4180 has them, read strictly: a line that is not well-formed is named, and the
// next line is read as if nothing had been.

/** The fields of one record, and the line on which it begins. */
export interface CsvRecord {
  readonly line: number
  readonly fields: ReadonlyArray<string>
}

/** A record that is none, and why. */
export interface CsvFault {
  readonly line: number
  readonly text: string
  readonly fault: "quote never closed" | "text after a closing quote" | "quote inside a field"
}

interface Piece {
  readonly value: string
  /** Where it ends in the text. */
  readonly end: number
}

// A quote that is never closed swallows what follows: no field of ours is nearly as long as this.
const longestField = 10_000

const lineEnd = /\r\n|\n|\r/g

/** The end of the line that holds this place, and the beginning of the next. */
const lineFrom = (text: string, at: number) => {
  lineEnd.lastIndex = at
  const found = lineEnd.exec(text)
  return found === null
    ? { end: text.length, next: text.length }
    : { end: found.index, next: lineEnd.lastIndex }
}

const linesIn = (text: string): number => {
  if (!text.includes("\n") && !text.includes("\r")) return 0
  return text.match(lineEnd)?.length ?? 0
}

const endsField = (text: string, at: number) =>
  at === text.length || text[at] === "," || text[at] === "\n" || text[at] === "\r"

const readQuoted = (text: string, open: number): Piece | CsvFault["fault"] => {
  let from = open + 1
  while (true) {
    const quote = text.indexOf('"', from)
    if (quote < 0 || quote - open > longestField) return "quote never closed"
    if (text[quote + 1] !== '"') {
      if (!endsField(text, quote + 1)) return "text after a closing quote"
      return { value: text.slice(open + 1, quote).replaceAll('""', '"'), end: quote + 1 }
    }
    from = quote + 2
  }
}

const plain = /[^",\r\n]*/y

const readField = (text: string, at: number): Piece | CsvFault["fault"] => {
  if (text[at] === '"') return readQuoted(text, at)
  plain.lastIndex = at
  const value = plain.exec(text)?.[0] ?? ""
  const end = at + value.length
  return text[end] === '"' ? "quote inside a field" : { value, end }
}

const readRecord = (text: string, begin: number) => {
  const fields: Array<string> = []
  let at = begin
  while (true) {
    const field = readField(text, at)
    if (typeof field === "string") return field
    fields.push(field.value)
    if (text[field.end] !== ",") return { fields, end: field.end }
    at = field.end + 1
  }
}

/** Every record of a text, in order; empty lines are none. */
export const readCsv = function* (text: string): Generator<CsvRecord | CsvFault> {
  let line = 1
  let at = 0
  while (at < text.length) {
    const own = lineFrom(text, at)
    const record = own.end === at ? undefined : readRecord(text, at)
    if (typeof record === "string") {
      yield { line, text: text.slice(at, own.end), fault: record }
      at = own.next
      line++
      continue
    }
    if (record !== undefined) yield { line, fields: record.fields }
    const { next } = record === undefined ? own : lineFrom(text, record.end)
    line += linesIn(text.slice(at, next))
    at = next
  }
}
