// A fresh database for a test, of either kind, and what is needed to look into it from outside.

import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import pg from "pg"
import { inject } from "vitest"

export const databaseKinds = ["embedded", "postgres"] as const
export type DatabaseKind = (typeof databaseKinds)[number]

export interface TestDatabase {
  readonly kind: DatabaseKind
  /** The settings that make the service use it. */
  readonly env: Record<string, string>
  readonly drop: () => Promise<void>
}

/** A PostgreSQL database of its own on the run's cluster; `query` looks into it from outside the service. */
export interface PostgresDatabase extends TestDatabase {
  readonly url: string
  readonly query: <A extends pg.QueryResultRow>(
    sql: string,
    values?: ReadonlyArray<unknown>,
  ) => Promise<Array<A>>
}

let made = 0

const onCluster = async (sql: string) => {
  const client = new pg.Client({ connectionString: inject("postgres") })
  await client.connect()
  try {
    await client.query(sql)
  } finally {
    await client.end()
  }
}

export const makePostgresDatabase = async (): Promise<PostgresDatabase> => {
  const name = `test_${process.pid}_${Date.now()}_${made++}`
  await onCluster(`CREATE DATABASE ${name}`)
  const url = new URL(inject("postgres"))
  url.pathname = `/${name}`
  const pool = new pg.Pool({ connectionString: url.href, max: 4 })
  pool.on("error", () => {})
  return {
    kind: "postgres",
    url: url.href,
    env: { DATABASE_URL: url.href },
    query: async (sql, values = []) => (await pool.query(sql, [...values])).rows,
    drop: async () => {
      await pool.end()
      await onCluster(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
    },
  }
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
