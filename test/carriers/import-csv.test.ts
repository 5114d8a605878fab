// Properties and examples of CSV: whatever is written by the rules is read as it was, and a line that breaks
// them costs nothing but itself.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { readCsv } from "../../src/carriers/import/csv.ts"
import { csvEntries } from "../../src/carriers/import/csv-entries.ts"
import { FileRefused } from "../../src/carriers/import/entry.ts"
import { cases } from "../support/properties.ts"

type Row = ReadonlyArray<string>

const needsQuotes = (field: string) => /[",\r\n\ufeff]/.test(field)
const quoted = (field: string) => `"${field.replaceAll('"', '""')}"`

/** As RFC 4180 writes it; a lone empty field is quoted, because an empty line is no record. */
const print = (rows: ReadonlyArray<Row>, end: string, quoteAll = false) =>
  rows
    .map((row) =>
      row
        .map((field) =>
          quoteAll || needsQuotes(field) || (row.length === 1 && field === "") ? quoted(field) : field,
        )
        .join(","),
    )
    .join(end)

const read = (text: string) => [...readCsv(text)]
const fieldsOf = (text: string) =>
  read(text).map((record) => ("fields" in record ? record.fields : record.fault))

const field = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({ unit: fc.constantFrom('"', ",", "\r", "\n", " ", "a", "\ufeff", "'", ";", "\t", "é", "😀") }),
)
const rows = fc.array(fc.array(field, { minLength: 1, maxLength: 6 }), { maxLength: 8 })
const lineEnds = fc.constantFrom("\n", "\r\n", "\r")

describe("any rows, once written,", () => {
  it("are read as they were", () => {
    fc.assert(
      fc.property(rows, lineEnds, fc.boolean(), fc.boolean(), (written, end, quoteAll, ended) => {
        const text = print(written, end, quoteAll) + (ended && written.length > 0 ? end : "")
        expect(fieldsOf(text)).toEqual(written)
      }),
      cases,
    )
  })

  it("are each found on the line on which they begin", () => {
    fc.assert(
      fc.property(rows, (written) => {
        let line = 1
        const expected = written.map((row) => {
          const begun = line
          line += 1 + (row.join("").match(/\r\n|\n|\r/g)?.length ?? 0)
          return begun
        })
        // Fields that begin or end with half of a CRLF could make one with their neighbour in the joined text.
        fc.pre(written.every((row) => row.every((text) => !/^\n|\r$/.test(text))))
        expect(read(print(written, "\n")).map((record) => record.line)).toEqual(expected)
      }),
      cases,
    )
  })

  it("are all read but the one that is broken", () => {
    const broken = fc.constantFrom('a"b,c', '"a"b,c', '"a,b')
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.stringMatching(/^[a-z ]{1,5}$/), { minLength: 1 }), {
          minLength: 1,
          maxLength: 8,
        }),
        fc.nat(),
        broken,
        (written, at, line) => {
          const lines = written.map((row) => row.join(","))
          const place = at % (lines.length + 1)
          lines.splice(place, 0, line)
          const found = read(lines.join("\n"))
          expect(found.filter((record) => "fault" in record).map((record) => record.line)).toEqual([
            place + 1,
          ])
          expect(found.flatMap((record) => ("fields" in record ? [record.fields] : []))).toEqual(written)
        },
      ),
      cases,
    )
  })

  it("never fail to be read, whatever the text", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('"', ",", "\r", "\n", "a") }), (text) => {
        const lines = read(text).map((record) => record.line)
        expect(lines).toEqual([...new Set(lines)].sort((a, b) => a - b))
      }),
      cases,
    )
  })
})

describe("readCsv", () => {
  it.each([
    [
      "a,b\nc,d",
      [
        ["a", "b"],
        ["c", "d"],
      ],
    ],
    ["\n\na\n\n", [["a"]]],
    ['""\n', [[""]]],
    [",\n", [["", ""]]],
    ['"a ""b"" c"', [['a "b" c']]],
    ['"a\nb",c', [["a\nb", "c"]]],
    ['a\n"b\nc', [["a"], "quote never closed", ["c"]]],
    ['"b\nc,"d"\ne', ["text after a closing quote", ["c", "d"], ["e"]]],
  ] as const)("reads %j", (text, expected) => {
    expect(fieldsOf(text)).toEqual(expected)
  })

  it("takes no long time over quotes that are never closed", () => {
    const text = '"""\n'.repeat(50_000)
    const begun = performance.now()
    expect(read(text).length).toBeGreaterThan(0)
    expect(performance.now() - begun).toBeLessThan(10_000)
  })
})

describe("the header", () => {
  const refusal = (text: string) => {
    try {
      return [...csvEntries(text)].length
    } catch (error) {
      if (error instanceof FileRefused) return error.message
      throw error
    }
  }

  it.each([
    ["", "The file is empty"],
    ["\n\n", "The file is empty"],
    ["+15551234567,Telnyx\n", "Line 1 is no header"],
    ["number,carier\n", 'unknown column: "carier". Did you mean carrier?'],
    ["number,colour\n", 'unknown column: "colour". Known are number'],
    ["number,carrier,number\n", "has the column number twice"],
    ["carrier,tenant\n", "no column named number"],
    ["number;carrier\n", "has no commas"],
    ['number,"carrier\n', "a quote is opened and never closed"],
  ])("is refused where it is %j", (text, message) => {
    expect(refusal(text)).toContain(message)
  })

  it("may have its columns in any order and any case, and rows of nothing but commas below", () => {
    expect([...csvEntries(" Target , NUMBER \r\nagent,+15551234567\r\n,\r\n")]).toEqual([
      {
        _tag: "Entry",
        line: 2,
        number: "+15551234567",
        type: undefined,
        fields: { carrier: undefined, tenant: undefined, campaign: undefined, target: "agent" },
      },
    ])
  })
})
