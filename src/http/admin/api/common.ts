// What several resources of the admin API are made of.

import { Schema, SchemaTransformation } from "effect"

/** An id of ours. */
export const Id = Schema.String.annotate({ format: "uuid" })

/** An id in a path or a query, or of something that a body refers to. */
export const IdInput = Schema.String.annotate({ format: "uuid" }).check(
  Schema.isPattern(/^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/, { expected: "a UUID" }),
)

/** A time, ISO 8601. */
export const Time = Schema.String.annotate({ format: "date-time" }).pipe(
  Schema.decodeTo(Schema.Date, SchemaTransformation.dateFromString),
)

/** A time in a query, with its offset: without one it would depend on where we run. */
export const TimeInput = Schema.String.annotate({ format: "date-time" })
  .check(
    Schema.isPattern(/^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)$/, {
      expected: "a time like 2026-01-31T12:00:00Z",
    }),
  )
  .pipe(Schema.decodeTo(Schema.Date, SchemaTransformation.dateFromString))

/** A phone number in any national or international form. */
export const NumberInput = Schema.String.check(Schema.isMaxLength(512)).annotate({
  description: "A phone number in any form; a national one is read by DEFAULT_REGION",
})

const printable = Schema.isPattern(/^[^\p{Cc}\p{Cs}]*$/u, { expected: "a text without control characters" })

/** A name that somebody gives something. */
export const Name = Schema.String.check(
  Schema.isTrimmed(),
  Schema.isNonEmpty(),
  Schema.isMaxLength(200),
  printable,
)

/** A text to search for, or an id that is not ours. */
export const Term = Schema.String.check(Schema.isNonEmpty(), Schema.isMaxLength(512), printable)

/** Who answers. */
export const Target = Schema.Literals(["fleet", "agent"])

export const mostInPage = 200
export const defaultLimit = 50
export const Limit = Schema.optionalKey(
  Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: mostInPage })),
)

/** Where the page before this one ended; opaque to whoever sends it back. */
export const cursorOf = <S extends Schema.Constraint>(key: S) =>
  Schema.String.annotate({ description: "Where a page ended, as next_cursor of it says" }).pipe(
    Schema.decodeTo(Schema.StringFromBase64Url),
    Schema.decodeTo(Schema.fromJsonString(key)),
  )

/** The key of a list by name. */
export const NameKey = Schema.Tuple([Schema.String.check(printable), IdInput])

// Digits, not a number: microseconds since 1970 are exact in text only.
const Micros = Schema.String.check(Schema.isPattern(/^-?[0-9]{1,17}$/))

/** The key of a list by time. */
export const TimeKey = Schema.Tuple([Micros, IdInput])

/** As before, where the id is not one of ours. */
export const TimeTextKey = Schema.Tuple([Micros, Term])

/** One page; `next_cursor` is null where there is nothing more. */
export const pageOf = <S extends Schema.Constraint, K extends Schema.Constraint>(
  identifier: string,
  item: S,
  cursor: K,
) =>
  Schema.Struct({ items: Schema.Array(item), next_cursor: Schema.NullOr(cursor) }).annotate({
    identifier,
    description: "One page",
  })

/** What is told of something that is not there any more. */
export const Deleted = Schema.Struct({ id: Id }).annotate({
  identifier: "Deleted",
  description: "It is gone",
})
