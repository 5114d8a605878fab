// From rows to answers, and from what an operator wrote to what a query takes.

import { Effect } from "effect"
import { Settings } from "../../config.ts"
import type { Page } from "../../database/pages.ts"
import type { GivenNumber } from "../../routing/dids.ts"
import { numberTypeOf } from "../../routing/number-type.ts"
import { toE164 } from "../../routing/numbers.ts"
import { defaultLimit } from "./api/common.ts"
import { BadRequest } from "./api/problems.ts"

/** A time that the database keeps in milliseconds. */
export const timeOf = (ms: string | number | null): Date | null => (ms === null ? null : new Date(Number(ms)))

/** Milliseconds, which one driver reads as text. */
export const msOf = (ms: string | number | null): number | null => (ms === null ? null : Number(ms))

interface PageQuery<Key> {
  readonly limit?: number
  readonly cursor?: Key
}

/** One more than asked for: whether there is a next page. */
export const pageFor = <Key>({ cursor, limit = defaultLimit }: PageQuery<Key>): Page<Key> => ({
  after: cursor,
  limit: limit + 1,
})

/** The page that the rows of `pageFor` make. */
export const pageFrom = <Row, Item, Key>(
  { limit = defaultLimit }: PageQuery<Key>,
  rows: ReadonlyArray<Row>,
  keyOf: (row: Row) => Key,
  itemOf: (row: Row) => Item,
): { readonly items: ReadonlyArray<Item>; readonly next_cursor: Key | null } => {
  const shown = rows.slice(0, limit)
  const last = shown.at(-1)
  return {
    items: shown.map(itemOf),
    next_cursor: rows.length > limit && last !== undefined ? keyOf(last) : null,
  }
}

const notANumber = (path: string) => ({ path, message: "not a phone number" })

/** Reads numbers in any form; what is none is told with its path. */
export const makeReading = Effect.map(Settings, ({ defaultRegion }) => {
  const read = (raw: string): GivenNumber | undefined => {
    const e164 = toE164(raw, defaultRegion)
    return e164 === undefined ? undefined : { e164, raw, type: numberTypeOf(e164) ?? null }
  }
  const one = (path: string, raw: string): Effect.Effect<GivenNumber, BadRequest> => {
    const number = read(raw)
    return number === undefined ? Effect.fail(BadRequest.of([notANumber(path)])) : Effect.succeed(number)
  }
  return {
    read,
    one,
    /** As it is, where there is none. */
    optional: (path: string, raw: string | undefined): Effect.Effect<GivenNumber | undefined, BadRequest> =>
      raw === undefined ? Effect.succeed(undefined) : one(path, raw),
    /** A list, in which each number stands once. */
    list: (
      path: string,
      raws: ReadonlyArray<string>,
    ): Effect.Effect<ReadonlyArray<GivenNumber>, BadRequest> =>
      Effect.suspend(() => {
        const seen = new Map<string, GivenNumber>()
        const errors: Array<{ readonly path: string; readonly message: string }> = []
        for (const [place, raw] of raws.entries()) {
          const number = read(raw)
          const at = `${path}[${place}]`
          if (number === undefined) errors.push(notANumber(at))
          else if (seen.has(number.e164)) errors.push({ path: at, message: `${number.e164} is listed twice` })
          else seen.set(number.e164, number)
        }
        return errors.length > 0 ? Effect.fail(BadRequest.of(errors)) : Effect.succeed([...seen.values()])
      }),
  }
})
