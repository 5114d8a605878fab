// Statements whose text never changes: compiled once, and each time only the values are put in.

import { type CompiledQuery, type RawBuilder, sql } from "kysely"
import { query } from "./schema.ts"

/** What a function of the input gives, as a parameter of the statement; the same function is one parameter. */
export type Of<Input extends ReadonlyArray<unknown>> = <A>(value: (...input: Input) => A) => RawBuilder<A>

/** The same for a part of the input: what is said of the part can then stand in statements about the whole. */
export const ofPart = <Part, Input extends ReadonlyArray<unknown>>(
  of: Of<Input>,
  part: (...input: Input) => Part,
): Of<[Part]> => {
  const known = new Map<unknown, (...input: Input) => unknown>()
  return <A>(value: (part: Part) => A) => {
    const whole = known.get(value) ?? ((...input: Input) => value(part(...input)))
    known.set(value, whole)
    return of(whole as (...input: Input) => A)
  }
}

/** Stands in a statement for what a function of its input gives. */
class Given {
  readonly value: (...input: ReadonlyArray<never>) => unknown
  constructor(value: (...input: ReadonlyArray<never>) => unknown) {
    this.value = value
  }
}

/** A text with `$n` for each of the values, of which each is there once. */
const compile = (built: RawBuilder<unknown>) => {
  const { parameters, sql: text, ...rest } = built.compile(query)
  const values = [...new Set(parameters)]
  const places = parameters.map((value) => values.indexOf(value) + 1)
  return { ...rest, sql: text.replace(/\$(\d+)/g, (_, place) => `$${places[Number(place) - 1]}`), values }
}

/** The same with a function of the input for each value. */
const compileOf = <Input extends ReadonlyArray<unknown>>(build: (of: Of<Input>) => RawBuilder<unknown>) => {
  const givens = new Map<unknown, Given>()
  const { values, ...rest } = compile(
    build(<A>(value: (...input: Input) => A) => {
      const given = givens.get(value) ?? new Given(value)
      givens.set(value, given)
      return sql.val(given) as RawBuilder<unknown> as RawBuilder<A>
    }),
  )
  const fill = values.map((value) =>
    value instanceof Given ? (value.value as (...input: Input) => unknown) : () => value,
  )
  return { ...rest, fill }
}

/**
 * A statement as a function of its input. The text is built when it is first needed; whatever differs from one time
 * to the next stands in it as `of(...)`, with its type, for nothing else tells PostgreSQL what it is:
 *
 * ```ts
 * const callNamed = statement<[key: string], { id: string }>(
 *   (of) => sql`SELECT id FROM calls WHERE call_key = ${of((key) => key)}::text`,
 * )
 * ```
 */
export const statement = <Input extends ReadonlyArray<unknown>, Row = unknown>(
  build: (of: Of<Input>) => RawBuilder<Row>,
): ((...input: Input) => CompiledQuery<Row>) => {
  let compiled: ReturnType<typeof compileOf<Input>> | undefined
  return (...input) => {
    compiled ??= compileOf(build)
    const { fill, query: node, queryId, sql: text } = compiled
    return { query: node, queryId, sql: text, parameters: fill.map((value) => value(...input)) }
  }
}

// JSON has no other form for what a bytea holds than PostgreSQL's own.
const inJson = (value: unknown) =>
  value instanceof Uint8Array ? `\\x${Buffer.from(value).toString("hex")}` : value

// A text of JSON stays one until the statement makes its value of it.
const columnTypes: Record<string, string> = { json: "text", jsonb: "text" }

// Of several inputs in one statement each waits for the locks of all: where that lasts, each asks for itself.
const longestLocked = sql.lit("250ms")

const compileBatch = <Input>(build: (of: Of<[input: Input]>) => RawBuilder<unknown>) => {
  const { fill, sql: whole, ...rest } = compileOf(build)
  const types = new Map<string, string>()
  const body = whole.replace(/\$(\d+)::(\w+(?:\[\])?)/g, (as, place: string, type: string) => {
    const column = columnTypes[type] ?? type
    if ((types.get(place) ?? column) !== column) return as
    types.set(place, column)
    return column === type ? `given.p${place}` : `given.p${place}::${type}`
  })
  if (!body.trimStart().startsWith("WITH ") || /\$\d/.test(body))
    throw new Error(`a batch begins with WITH, and whatever is given has one type: ${body}`)
  const columns = (column: (place: string, type: string) => string) =>
    sql.raw([...types].map(([place, type]) => column(place, type)).join(", "))
  // PostgreSQL takes what is compared for one row of hundreds, and so looks each one up by an index.
  const several = sql`WITH given AS (
    SELECT g.*, CASE WHEN g.batch > 1 THEN set_config('lock_timeout', ${longestLocked}, true) END AS locks
    FROM json_to_recordset($1::json) AS g(batch integer, ${columns((place, type) => `p${place} ${type}`)})
    WHERE g.batch = $2::integer
  ),`
  const one = sql`WITH given AS (SELECT ${columns((place, type) => `$${place}::${type} AS p${place}`)}),`
  const text = (given: RawBuilder<unknown>) => body.replace("WITH ", () => `${given.compile(query).sql} `)
  return { ...rest, fill, one: text(one), several: text(several) }
}

/** A statement about any number of inputs at once; each of its rows is about one of them. */
export interface Batch<Input, Row> {
  readonly statement: (inputs: ReadonlyArray<Input>) => CompiledQuery<Row>
  /** What names an input. A statement is about one of that name at most. */
  readonly nameOf: (input: Input) => string
  /** The name of the input that a row is about. */
  readonly nameIn: (row: Row) => string
  /** Who locks first: the same everywhere, or two statements could wait for each other. */
  readonly orderOf: (input: Input) => string
}

/**
 * A statement about several inputs, whose text is the same for two and for twenty. It begins with `WITH`, and has a
 * table `given` with a row for each input, in their order; `of(...)` is a column of that, so it stands where that is
 * selected from, or something by its name that has all its columns.
 */
export const batch = <Input, Row>(
  build: (of: Of<[input: Input]>) => RawBuilder<Row>,
  naming: Omit<Batch<Input, Row>, "statement">,
): Batch<Input, Row> => {
  let compiled: ReturnType<typeof compileBatch<Input>> | undefined
  return {
    ...naming,
    statement: (inputs) => {
      compiled ??= compileBatch(build)
      const { fill, one, query: node, queryId, several } = compiled
      const [input] = inputs
      if (inputs.length === 1 && input !== undefined)
        return { query: node, queryId, sql: one, parameters: fill.map((value) => value(input)) }
      const rows = inputs.map((input) => {
        const row: Record<string, unknown> = { batch: inputs.length }
        fill.forEach((value, place) => {
          row[`p${place + 1}`] = inJson(value(input))
        })
        return row
      })
      return { query: node, queryId, sql: several, parameters: [JSON.stringify(rows), inputs.length] }
    },
  }
}
