// PostgreSQL by `DATABASE_URL`, over a pool of `pg` connections.

import { type CompiledQuery, Kysely, PostgresDialect } from "kysely"
import pg from "pg"
import type { Engine } from "./engine.ts"
import { Prepared } from "./prepared.ts"
import type { Tables } from "./schema.ts"

// LiveKit waits 15 s in all, so nothing here may wait for long.
const usualWaits = { connectionTimeoutMillis: 2_000, query_timeout: 4_000 }

const options = {
  keepAlive: true,
  application_name: "switchhook",
} as const

const place = (url: string) => {
  const { hostname, port, pathname } = new URL(url)
  return `${hostname}${port === "" ? "" : `:${port}`}${pathname}`
}

// A standby, or a server whose disk is full, answers and takes no writes.
const isWritable =
  "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS deaf"

// Some ALTER TABLE, REINDEX or VACUUM FULL keeps everybody from writing for as long as it takes, while all else is
// answered: what a hand-over writes to must be had. A statement that gives up by itself leaves no connection behind.
const writable = ["calls", "call_aliases", "dispatch_attempts", "sessions", "answerers", "leads"]
const lockTables = `BEGIN; SET LOCAL lock_timeout = '500ms'; LOCK TABLE ${writable.join(", ")} IN ROW EXCLUSIVE MODE; COMMIT`
const lockNotAvailable = "55P03"

/** Asks over a connection of its own, which is kept until it once fails. */
const makePinger = (connect: () => Promise<pg.Client>) => {
  let client: Promise<pg.Client> | undefined
  const drop = () => {
    client?.then((open) => open.end()).catch(() => {})
    client = undefined
  }
  const ask = async () => {
    client ??= connect()
    const { rows } = await (await client).query<{ deaf: boolean }>(isWritable)
    if (rows[0]?.deaf === true) throw new Error("the database takes no writes: it is read-only")
    await (await client).query(lockTables).catch((error) => {
      if (error?.code !== lockNotAvailable) throw error
      throw new Error("the database takes no writes: somebody has locked its tables", { cause: error })
    })
  }
  return {
    ping: async (signal: AbortSignal) => {
      // Whoever does not wait any longer takes the connection for dead.
      signal.addEventListener("abort", drop, { once: true })
      try {
        await ask()
      } catch (error) {
        drop()
        throw error
      } finally {
        signal.removeEventListener("abort", drop)
      }
    },
    close: drop,
  }
}

/** Connects on first use: building it reaches no network. Waits so many ms for a connection, and for an answer. */
export const makePostgres = (url: string, waits: typeof usualWaits = usualWaits): Engine => {
  const pool = new pg.Pool({ connectionString: url, max: 10, ...options, ...waits })
  // A connection that breaks is replaced by the next query; without listeners it would end the process, and
  // the pool's own listener hears only the idle ones.
  pool.on("error", () => {})
  const prepared = new Prepared()
  pool.on("connect", (client) => {
    client.on("error", () => {})
    prepared.adopt(client)
  })
  const kysely = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
  const connect = async (options: pg.ClientConfig) => {
    const client = new pg.Client({ connectionString: url, ...options })
    client.on("error", () => {})
    await client.connect()
    return client
  }
  // Whoever pings decides how long that may take, by a clock that stands still while this process does: a timer of the
  // driver's would take a pause of ours for a database that is away, and calls would then be claimed in memory.
  const pinger = makePinger(() => connect({ keepAlive: true, application_name: "switchhook-ping" }))
  return {
    kind: "postgres",
    place: place(url),
    kysely,
    run: async <A>({ parameters, sql }: CompiledQuery<A>) => {
      const client = await pool.connect()
      try {
        return (await client.query<A & pg.QueryResultRow>(sql, [...parameters])).rows
      } finally {
        // A connection that has broken is known to the pool, and one whose query was refused goes on.
        client.release()
      }
    },
    migrationSession: async () => {
      // A migration may take long; only connecting is bounded.
      const client = await connect({ connectionTimeoutMillis: 2_000, application_name: "switchhook-migrate" })
      return {
        script: (sql) => client.query(sql),
        names: async (sql) => (await client.query<{ name: string }>(sql)).rows.map((row) => row.name),
        close: () => client.end(),
      }
    },
    ping: pinger.ping,
    listen: async (channel, onMessage, onLost) => {
      const client = await connect({ ...options, ...waits, application_name: "switchhook-listen" })
      client.on("notification", (message) => onMessage(message.payload ?? ""))
      client.on("end", onLost)
      await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`)
      return async () => {
        client.off("end", onLost)
        await client.end()
      }
    },
    close: async () => {
      pinger.close()
      await kysely.destroy()
    },
  }
}
