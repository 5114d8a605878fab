// Long lists, page by page: by the key of the last row seen, so that rows which come meanwhile shift nothing.

import { type RawBuilder, sql } from "kysely"

/** The next `limit` rows after the one with this key; from the beginning where there is none. */
export interface Page<Key> {
  readonly after: Key | undefined
  readonly limit: number
}

/** A key that ends in what is unique. */
export type Key = readonly [string, string]

/** All of these; true where there are none. */
export const all = (conditions: ReadonlyArray<RawBuilder<unknown> | undefined>): RawBuilder<unknown> => {
  const given = conditions.filter((condition) => condition !== undefined)
  return given.length === 0 ? sql`true` : sql.join(given, sql` AND `)
}

/** `when` where there is a value to compare with. */
export const where = <A>(
  value: A | undefined,
  when: (value: A) => RawBuilder<unknown>,
): RawBuilder<unknown> | undefined => (value === undefined ? undefined : when(value))

/** A time in microseconds since 1970, exactly, as text: a JavaScript date would lose some of it. */
export const micros = (column: string): RawBuilder<string> =>
  sql<string>`(extract(epoch FROM ${sql.raw(column)}) * 1000000)::bigint::text`

/** The time that such a text stands for. */
export const atMicros = (text: string): RawBuilder<Date> =>
  sql<Date>`(timestamptz 'epoch' + ${text}::bigint * interval '1 microsecond')`

/** `name = value` for each of these that is given; nothing where none is. */
export const assignments = (
  columns: Readonly<Record<string, RawBuilder<unknown> | undefined>>,
): ReadonlyArray<RawBuilder<unknown>> =>
  Object.entries(columns).flatMap(([name, value]) =>
    value === undefined ? [] : [sql`${sql.ref(name)} = ${value}`],
  )
