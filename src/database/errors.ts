// What a database can say no with, by PostgreSQL's codes.

import { Data, Predicate } from "effect"

/** The database could not be asked, or did not answer in time: nothing is known about what it did. */
export class DatabaseUnavailable extends Data.TaggedError("DatabaseUnavailable")<{
  readonly cause: unknown
}> {
  override get message() {
    return `The database cannot be reached: ${messageOf(this.cause)}`
  }
}

/** The database refused the query: nothing was written. */
export class QueryRefused extends Data.TaggedError("QueryRefused")<{
  readonly code: string
  readonly constraint: string | undefined
  readonly cause: unknown
}> {
  override get message() {
    return `The database refused a query (${this.code}): ${messageOf(this.cause)}`
  }
}

export type DatabaseError = DatabaseUnavailable | QueryRefused

/** What a driver's error says, whatever it is. */
export const messageOf = (cause: unknown): string => {
  if (cause instanceof AggregateError) return cause.errors.map(messageOf).join("; ")
  if (Predicate.hasProperty(cause, "message")) return String(cause.message)
  return typeof cause === "string" ? cause : "no reason given"
}

const codeOf = (cause: unknown) =>
  Predicate.hasProperty(cause, "code") && Predicate.isString(cause.code) ? cause.code : ""

// SQLSTATE has five characters, and so has EPIPE, which is the system's; 08 connection, 40 rolled back (a deadlock), 53 resources, 57 shutdown and
// cancellation, 25006 read-only, 55000 a database that takes no connections.
const isSqlState = (code: string) => /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]{4}$/.test(code)
const isTrouble = (code: string) => /^(?:08|40|53|57)/.test(code) || code === "25006" || code === "55000"

/** True where the connection or the server failed, rather than the query. */
export const isConnectionTrouble = (cause: unknown): boolean => {
  const code = codeOf(cause)
  return !isSqlState(code) || isTrouble(code)
}

// Of these transactions, too, nothing is left: serialization failure, deadlock, cancelled.
const undone = new Set(["40001", "40P01", "57014"])

/** True where it was the statement that failed, with all that it was about, rather than the connection or the server. */
export const isOfStatement = (error: DatabaseError): boolean =>
  error._tag === "QueryRefused" || undone.has(codeOf(error.cause))

/** Sorts whatever a driver throws. */
export const toDatabaseError = (cause: unknown): DatabaseError => {
  if (isConnectionTrouble(cause)) return new DatabaseUnavailable({ cause })
  const constraint = Predicate.hasProperty(cause, "constraint") ? cause.constraint : undefined
  return new QueryRefused({
    code: codeOf(cause),
    constraint: Predicate.isString(constraint) ? constraint : undefined,
    cause,
  })
}
