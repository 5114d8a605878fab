// A fresh database for a test, of either kind, and what is needed to look into it from outside.

import { sql } from "kysely"
import { inject } from "vitest"
import { type ClusterDatabase, createDatabase } from "./cluster.ts"
import { makeDataDir } from "./embedded-copies.ts"

export const databaseKinds = ["embedded", "postgres"] as const
export type DatabaseKind = (typeof databaseKinds)[number]

export interface TestDatabase {
  readonly kind: DatabaseKind
  /** The settings that make the service use it. */
  readonly env: Record<string, string>
  readonly drop: () => Promise<void>
}

/** A PostgreSQL database of its own on the run's cluster. */
export interface PostgresDatabase extends TestDatabase, ClusterDatabase {}

export const makePostgresDatabase = async (): Promise<PostgresDatabase> => {
  const database = await createDatabase(inject("postgres"))
  return { ...database, kind: "postgres", env: { DATABASE_URL: database.url } }
}

export const makeEmbeddedDatabase = async (): Promise<TestDatabase> => {
  const { drop, path } = await makeDataDir()
  return { kind: "embedded", env: { DATA_DIR: path, EMBEDDED_DATABASE: "true" }, drop }
}

export const makeDatabase = (kind: DatabaseKind): Promise<TestDatabase> =>
  kind === "postgres" ? makePostgresDatabase() : makeEmbeddedDatabase()

/** Takes away all calls and what belongs to them; of a few rows a DELETE takes less than a TRUNCATE. */
export const withoutCalls = sql<Record<string, unknown>>`
  WITH a AS (DELETE FROM call_aliases), b AS (DELETE FROM sessions), c AS (DELETE FROM answerers),
    d AS (DELETE FROM leads)
  DELETE FROM calls`
