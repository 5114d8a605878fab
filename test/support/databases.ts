// A fresh database for a test, of either kind, and what is needed to look into it from outside.

import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inject } from "vitest"
import { type ClusterDatabase, createDatabase } from "./cluster.ts"

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
  const directory = await mkdtemp(join(tmpdir(), "switchhook-data-"))
  return {
    kind: "embedded",
    env: { DATA_DIR: directory, EMBEDDED_DATABASE: "true" },
    drop: () => rm(directory, { recursive: true, force: true }),
  }
}

export const makeDatabase = (kind: DatabaseKind): Promise<TestDatabase> =>
  kind === "postgres" ? makePostgresDatabase() : makeEmbeddedDatabase()
