// Statements that are compiled once: the same text each time, and the values of this time.

import { sql } from "kysely"
import { expect, it } from "vitest"
import { ofPart, statement } from "../../src/database/statement.ts"

interface Caller {
  readonly name: string
  readonly age: number
}

const built: Array<string> = []
const olderThan = statement<[caller: Caller, years: number], { name: string }>((of) => {
  built.push("built")
  const nameOf = ({ name }: Caller) => name
  return sql`SELECT ${of(nameOf)}::text, ${of(({ age }, years) => age + years)}::integer, ${"always"}::text
    WHERE ${of(nameOf)}::text <> ${"always"}::text`
})

it("is built at its first use, and only then", () => {
  expect(built).toEqual([])
  const first = olderThan({ name: "Ann", age: 30 }, 1)
  const second = olderThan({ name: "Bob", age: 40 }, 2)
  expect(built).toEqual(["built"])
  expect(second.sql).toBe(first.sql)
  expect([first.parameters, second.parameters]).toEqual([
    ["Ann", 31, "always"],
    ["Bob", 42, "always"],
  ])
})

it("sends what stands twice in it once", () => {
  const { sql: text } = olderThan({ name: "Ann", age: 30 }, 1)
  expect(text.match(/\$\d+/g)).toEqual(["$1", "$2", "$3", "$1", "$3"])
})

it("keeps its parameters in their places where there are more than nine", () => {
  const digits = Array.from({ length: 12 }, (_, digit) => (base: number) => base + digit)
  const many = statement<[base: number]>((of) => sql`SELECT ${sql.join([...digits, ...digits].map(of))}`)
  const { parameters, sql: text } = many(100)
  expect(parameters).toEqual(digits.map((digit) => digit(100)))
  const numbered = digits.map((_, place) => `$${place + 1}`)
  expect(text).toBe(`SELECT ${[...numbered, ...numbered].join(", ")}`)
})

it("takes what is said of a part of its input, and shares that, too", () => {
  const nameOf = ({ name }: Caller) => name
  const both = statement<[whole: { readonly caller: Caller }]>((of) => {
    const ofCaller = ofPart(of, ({ caller }) => caller)
    return sql`SELECT ${ofCaller(nameOf)}, ${ofCaller(({ age }) => age)}, ${ofCaller(nameOf)}`
  })
  const { parameters, sql: text } = both({ caller: { name: "Ann", age: 30 } })
  expect([text, parameters]).toEqual(["SELECT $1, $2, $1", ["Ann", 30]])
})
