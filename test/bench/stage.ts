// The databases of a measurement: one PostgreSQL, and for each contender and round a copy of a migrated database.

import { execFileSync } from "node:child_process"
import { cp, mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { PGlite } from "@electric-sql/pglite"
import pg from "pg"
import { startCluster } from "../support/cluster.ts"
import { root } from "../support/processes.ts"
import type { DatabaseKind } from "./contenders.ts"
import { apiKey, apiSecret, coreSecret, didNumber, trunk, usualDids } from "./events.ts"

/** Rows of a statement, from outside the contender. */
export type Query = (sql: string) => Promise<ReadonlyArray<Record<string, unknown>>>

export interface StagedDatabase {
  /** The settings that make a contender use it. */
  readonly env: Record<string, string>
  /** Looks into it while no contender has it open. */
  readonly look: <A>(use: (query: Query) => Promise<A>) => Promise<A>
  readonly drop: () => Promise<void>
}

export interface Stage {
  readonly version: string
  readonly copy: (kind: DatabaseKind) => Promise<StagedDatabase>
  readonly stop: () => Promise<void>
}

/** One carrier with its numbers, all of one tenant: what every contender looks a dialed number up in. */
export const seedSql = (dids: number): string => `
  INSERT INTO tenants (name) VALUES ('Bench');
  INSERT INTO carriers (name, lk_inbound_trunk_id) VALUES ('Bench', '${trunk}');
  INSERT INTO dids (number, raw_number, type, carrier_id, position, tenant_id)
  SELECT '${didNumber(0).slice(0, -7)}' || (${didNumber(0).slice(-7)} + n), '', 'toll-free',
    (SELECT id FROM carriers), n, (SELECT id FROM tenants)
  FROM generate_series(0, ${dids - 1}) n;
`

const withClient = async <A>(url: string, use: (client: pg.Client) => Promise<A>): Promise<A> => {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return await use(client)
  } finally {
    await client.end()
  }
}

const migrate = (env: Record<string, string>) =>
  execFileSync(`${root}node_modules/.bin/node`, [`${root}src/commands/migrate.ts`], {
    cwd: tmpdir(),
    env: {
      PATH: process.env["PATH"],
      NODE_ENV: "production",
      LIVEKIT_API_KEY: apiKey,
      LIVEKIT_API_SECRET: apiSecret,
      CXB_CORE_SECRET: coreSecret,
      ...env,
    },
    stdio: ["ignore", "ignore", "inherit"],
  })

const lookWithPostgres =
  (url: string): StagedDatabase["look"] =>
  (use) =>
    withClient(url, (client) => use(async (sql) => (await client.query(sql)).rows))

const lookWithPglite =
  (directory: string): StagedDatabase["look"] =>
  async (use) => {
    const pglite = await PGlite.create(join(directory, "pglite"))
    try {
      return await use(async (sql) => (await pglite.query<Record<string, unknown>>(sql)).rows)
    } finally {
      await pglite.close()
    }
  }

let made = 0

const named = (cluster: string, name: string) => {
  const url = new URL(cluster)
  url.pathname = `/${name}`
  return url.href
}

/** A new, migrated database on the cluster, with so many numbers. */
export const makeMigrated = async (cluster: string, name: string, dids: number): Promise<string> => {
  await withClient(cluster, (client) => client.query(`CREATE DATABASE ${name}`))
  const url = named(cluster, name)
  migrate({ DATABASE_URL: url })
  await withClient(url, (client) => client.query(seedSql(dids)))
  return url
}

/** A database of the cluster, which stays after it was dropped here. */
export const stagedPostgres = async (url: string, dataDir: string): Promise<StagedDatabase> => ({
  env: { DATABASE_URL: url, DATA_DIR: dataDir },
  look: lookWithPostgres(url),
  drop: () => rm(dataDir, { recursive: true, force: true }),
})

export const makeDataDir = (): Promise<string> => mkdtemp(join(tmpdir(), "switchhook-bench-"))

const copyPostgres = async (cluster: string, template: string): Promise<StagedDatabase> => {
  const name = `bench_${made++}`
  await withClient(cluster, (client) => client.query(`CREATE DATABASE ${name} TEMPLATE ${template}`))
  const staged = await stagedPostgres(named(cluster, name), await makeDataDir())
  return {
    ...staged,
    drop: async () => {
      await staged.drop()
      await withClient(cluster, (client) => client.query(`DROP DATABASE ${name} WITH (FORCE)`))
    },
  }
}

const makeEmbeddedTemplate = async () => {
  const directory = await makeDataDir()
  migrate({ DATA_DIR: directory, EMBEDDED_DATABASE: "true" })
  const pglite = await PGlite.create(join(directory, "pglite"))
  await pglite.exec(seedSql(usualDids))
  await pglite.close()
  return directory
}

const copyEmbedded = async (template: string): Promise<StagedDatabase> => {
  const directory = await makeDataDir()
  await cp(join(template, "pglite"), join(directory, "pglite"), { recursive: true })
  return {
    env: { DATA_DIR: directory, EMBEDDED_DATABASE: "true" },
    look: lookWithPglite(directory),
    drop: () => rm(directory, { recursive: true, force: true }),
  }
}

const template = "bench_template"

/** Starts the cluster and migrates the databases that are copied; the embedded one only where it is needed. */
export const startStage = async (kinds: ReadonlySet<DatabaseKind>): Promise<Stage> => {
  const cluster = await startCluster()
  await makeMigrated(cluster.url, template, usualDids)
  const embedded = kinds.has("embedded") ? await makeEmbeddedTemplate() : undefined
  const version = await withClient(cluster.url, async (client) => {
    const { rows } = await client.query<{ version: string }>("SELECT version()")
    return rows[0]?.version.split(" ").slice(0, 2).join(" ") ?? ""
  })
  return {
    version,
    copy: (kind) =>
      kind === "embedded" && embedded !== undefined
        ? copyEmbedded(embedded)
        : copyPostgres(cluster.url, template),
    stop: async () => {
      if (embedded !== undefined) await rm(embedded, { recursive: true, force: true })
      await cluster.stop()
    },
  }
}
