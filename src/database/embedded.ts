// The embedded database: PGlite in `DATA_DIR`, open in one process at a time, and by its door for others.

import { mkdir, rm } from "node:fs/promises"
import { connect, createServer, type Server, type Socket } from "node:net"
import { join, relative, resolve } from "node:path"
import { setTimeout } from "node:timers/promises"
import { PGlite } from "@electric-sql/pglite"
import { type CompiledQuery, Kysely, PGliteDialect, sql } from "kysely"
import { serveDoor, throughDoor } from "./door.ts"
import type { CommandEngine, Engine } from "./engine.ts"
import { ownMigrations } from "./migrations.ts"
import { query, type Tables } from "./schema.ts"

/** Another process has this `DATA_DIR` open; two would destroy it. */
export class DataDirInUse extends Error {
  constructor(dataDir: string) {
    super(
      `${resolve(dataDir)} is in use by another process: stop that one, or choose another DATA_DIR, or use PostgreSQL (DATABASE_URL)`,
    )
  }
}

const answers = (path: string) =>
  new Promise<boolean>((settle) => {
    const socket = connect(path)
    socket.once("connect", () => {
      socket.destroy()
      settle(true)
    })
    socket.once("error", () => settle(false))
  })

const listenOn = (path: string, onConnection: (socket: Socket) => void) =>
  new Promise<Server>((settle, fail) => {
    const server = createServer(onConnection)
    server.once("error", fail)
    server.listen(path, () => {
      server.unref()
      settle(server)
    })
  })

const lockOf = (dataDir: string) => {
  const whole = resolve(dataDir, "lock.sock")
  const near = relative(process.cwd(), whole)
  const path = near.length < whole.length ? near : whole
  if (Buffer.byteLength(path) > 100) throw new Error(`DATA_DIR is too long a path for its lock: ${dataDir}`)
  return path
}

// A socket is the lock, because it cannot outlive its process: after a kill -9 nobody answers on it, and a
// process number that was given out again means nothing.
const lock = async (dataDir: string, onConnection: (socket: Socket) => void) => {
  const path = lockOf(dataDir)
  if (await answers(path)) throw new DataDirInUse(dataDir)
  await rm(path, { force: true })
  try {
    return await listenOn(path, onConnection)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EADDRINUSE") throw new DataDirInUse(dataDir)
    throw error
  }
}

/**
 * Opens `dataDir`, making it where needed; `undefined` is a database in memory.
 * Rejects with `DataDirInUse` while another process has it open.
 */
export const makeEmbedded = async (dataDir: string | undefined): Promise<Engine> => {
  if (dataDir !== undefined) await mkdir(dataDir, { recursive: true })
  const opened = Promise.withResolvers<PGlite>()
  opened.promise.catch(() => {})
  const guests = new Set<Socket>()
  const welcome = (socket: Socket) => {
    guests.add(socket)
    serveDoor(socket, opened.promise).finally(() => guests.delete(socket))
  }
  const held = dataDir === undefined ? undefined : await lock(dataDir, welcome)
  const pglite = dataDir === undefined ? new PGlite() : new PGlite(join(dataDir, "pglite"))
  await pglite.waitReady.catch((error) => {
    opened.reject(error)
    throw error
  })
  opened.resolve(pglite)
  const kysely = new Kysely<Tables>({ dialect: new PGliteDialect({ pglite }) })
  return {
    kind: "embedded",
    place: dataDir === undefined ? "memory" : resolve(dataDir),
    kysely,
    run: async <A>({ parameters, sql }: CompiledQuery<A>) =>
      (await pglite.query<A>(sql, [...parameters])).rows,
    migrationSession: async () => ({
      script: (sql) => pglite.exec(sql),
      names: async (sql) => (await pglite.query<{ name: string }>(sql)).rows.map((row) => row.name),
      close: async () => {},
    }),
    ping: async () => {
      await pglite.query("SELECT 1")
    },
    listen: (channel, onMessage) => pglite.listen(channel, onMessage),
    close: async () => {
      for (const guest of guests) guest.destroy()
      await kysely.destroy()
      held?.close()
    },
  }
}

const migratedWithinMs = 10_000

/** A service that has just started is about to bring its database up to date: a command waits for that. */
const untilMigrated = async ({ kysely }: CommandEngine) => {
  const last = (await ownMigrations()).at(-1) ?? ""
  const applied = sql`SELECT name FROM schema_migrations WHERE name >= ${last}::text`.compile(query)
  const isThere = () =>
    kysely.executeQuery(applied).then(
      ({ rows }) => rows.length > 0,
      () => false,
    )
  const deadline = performance.now() + migratedWithinMs
  while (!(await isThere()) && performance.now() < deadline) await setTimeout(100)
}

/** Opens `dataDir` for a command: itself, or through the process that has it open. */
export const reachEmbedded = async (dataDir: string): Promise<CommandEngine> => {
  try {
    return await makeEmbedded(dataDir)
  } catch (error) {
    if (!(error instanceof DataDirInUse)) throw error
    const engine = await throughDoor(lockOf(dataDir), resolve(dataDir))
    await untilMigrated(engine)
    return engine
  }
}
