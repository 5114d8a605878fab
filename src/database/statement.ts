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

// A value that stands in several places of the text is sent once.
const compile = <Row>(built: RawBuilder<Row>) => {
  const { parameters, sql: text, ...rest } = built.compile(query)
  const values = [...new Set(parameters)]
  const places = parameters.map((value) => values.indexOf(value) + 1)
  return { ...rest, sql: text.replace(/\$(\d+)/g, (_, place) => `$${places[Number(place) - 1]}`), values }
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
  const compileOnce = () => {
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
  let compiled: ReturnType<typeof compileOnce> | undefined
  return (...input) => {
    compiled ??= compileOnce()
    const { fill, query: node, queryId, sql: text } = compiled
    return { query: node, queryId, sql: text, parameters: fill.map((value) => value(...input)) }
  }
}
