// Phone numbers from a CSV file whose first line names its columns.

import { type CsvRecord, readCsv } from "./csv.ts"
import {
  type BadLine,
  badLine,
  type Entry,
  type FieldName,
  type Fields,
  FileRefused,
  fieldNames,
  type Item,
  shown,
} from "./entry.ts"
import { closest } from "./suggestion.ts"

const columns = ["number", ...fieldNames] as const
type Column = (typeof columns)[number]

const isColumn = (name: string): name is Column => columns.some((column) => column === name)
const header = columns.join(",")

const refuse = (message: string): never => {
  throw new FileRefused({ message })
}

const checkColumn = (name: string, index: number, fields: ReadonlyArray<string>): Column => {
  if (isColumn(name)) {
    return fields.indexOf(name) === index ? name : refuse(`Line 1 has the column ${name} twice: keep one.`)
  }
  if (fields.length === 1 && /[;\t|]/.test(name))
    return refuse(`Line 1 has no commas: export the file with commas between its fields, as in ${header}.`)
  if (/^[+(]?\d/.test(name))
    return refuse(
      `Line 1 is no header: let it name the columns, as in ${header} (all but number are optional).`,
    )
  const meant = closest(name, columns)
  const hint = meant === undefined ? "" : ` Did you mean ${meant}?`
  return refuse(`Line 1 has an unknown column: ${shown(name)}.${hint} Known are ${columns.join(", ")}.`)
}

const readHeader = (record: CsvRecord): ReadonlyArray<Column> => {
  const names = record.fields.map((name) => name.trim().toLowerCase())
  const found = names.map(checkColumn)
  if (!found.includes("number")) refuse(`Line ${record.line} has no column named number.`)
  return found
}

const faults = {
  "quote never closed": [
    "a quote is opened and never closed",
    'Close the quote, or write "" for a quote that belongs to the text.',
  ],
  "text after a closing quote": [
    "text follows a closing quote",
    'Put the whole field in quotes, and write "" for each quote that belongs to the text.',
  ],
  "quote inside a field": [
    "a field without quotes around it has a quote inside",
    'Put the whole field in quotes, and write "" for each quote that belongs to the text.',
  ],
} as const

const wrongLength = ({ fields, line }: CsvRecord, expected: number): BadLine => {
  const count = (fieldCount: number) => (fieldCount === 1 ? "1 field" : `${fieldCount} fields`)
  return badLine(
    line,
    fields.join(","),
    `${count(fields.length)} where the header has ${expected}`,
    "Fill or remove fields until it matches the header; put a field with a comma in it in quotes.",
  )
}

const entryOf = ({ fields, line }: CsvRecord, names: ReadonlyArray<Column>): Entry => {
  const field = (name: Column) => {
    const index = names.indexOf(name)
    return index < 0 ? undefined : (fields[index] ?? "").trim()
  }
  const values = Object.fromEntries(fieldNames.map((name: FieldName) => [name, field(name)])) as Fields
  return { _tag: "Entry", line, number: field("number") ?? "", fields: values, type: undefined }
}

// Spreadsheets write empty rows as nothing but commas.
const isBlank = ({ fields }: CsvRecord) => fields.every((field) => field.trim() === "")

/** Throws `FileRefused` where the header is not one. */
export const csvEntries = function* (text: string): Generator<Item> {
  let names: ReadonlyArray<Column> | undefined
  for (const record of readCsv(text)) {
    if ("fault" in record) {
      const [problem, remedy] = faults[record.fault]
      if (names === undefined) refuse(`Line ${record.line} should be the header, but ${problem}. ${remedy}`)
      yield badLine(record.line, record.text, problem, remedy)
    } else if (isBlank(record)) {
    } else if (names === undefined) {
      names = readHeader(record)
    } else if (record.fields.length !== names.length) {
      yield wrongLength(record, names.length)
    } else {
      yield entryOf(record, names)
    }
  }
  if (names === undefined) refuse(`The file is empty. Its first line names the columns: ${header}.`)
}
