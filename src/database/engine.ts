// What differs between PostgreSQL and the embedded database, and nothing else.

import type { CompiledQuery, Kysely } from "kysely"
import type { Tables } from "./schema.ts"

/** One session in which the migrator runs scripts of several statements. */
export interface MigrationSession {
  readonly script: (sql: string) => Promise<unknown>
  readonly names: (sql: string) => Promise<ReadonlyArray<string>>
  readonly close: () => Promise<void>
}

export interface Engine {
  readonly kind: "postgres" | "embedded"
  /** Where the data is, for a person: never with a password. */
  readonly place: string
  readonly kysely: Kysely<Tables>
  /** The rows of a statement, straight from the driver: kysely's executor does nothing more for what is compiled. */
  readonly run: <A>(query: CompiledQuery<A>) => Promise<ReadonlyArray<A>>
  readonly migrationSession: () => Promise<MigrationSession>
  /**
   * Resolves if the database answers and takes writes. Waits in no queue with the queries, so that a busy service
   * does not take its database for dead. Given up by the signal.
   */
  readonly ping: (signal: AbortSignal) => Promise<void>
  /** Calls `onMessage` for every NOTIFY until the returned function is called; `onLost` once if the line breaks. */
  readonly listen: (
    channel: string,
    onMessage: (payload: string) => void,
    onLost: () => void,
  ) => Promise<() => Promise<void>>
  readonly close: () => Promise<void>
}

/** An engine for a command, which never listens and may go through another process. */
export type CommandEngine = Omit<Engine, "listen" | "ping" | "run">
