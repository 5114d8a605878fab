// The embedded database: PGlite in `DATA_DIR`, for one process at a time.

import { mkdir, rm } from "node:fs/promises"
import { connect, createServer, type Server } from "node:net"
import { join, relative, resolve } from "node:path"
import { PGlite } from "@electric-sql/pglite"
import { Kysely, PGliteDialect } from "kysely"
import type { Engine } from "./engine.ts"
import type { Tables } from "./schema.ts"

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

const listenOn = (path: string) =>
  new Promise<Server>((settle, fail) => {
    const server = createServer((socket) => socket.destroy())
    server.once("error", fail)
    server.listen(path, () => {
      server.unref()
      settle(server)
    })
  })

// A socket is the lock, because it cannot outlive its process: after a kill -9 nobody answers on it, and a
// process number that was given out again means nothing.
const lock = async (dataDir: string) => {
  const whole = resolve(dataDir, "lock.sock")
  const near = relative(process.cwd(), whole)
  const path = near.length < whole.length ? near : whole
  if (Buffer.byteLength(path) > 100) throw new Error(`DATA_DIR is too long a path for its lock: ${dataDir}`)
  if (await answers(path)) throw new DataDirInUse(dataDir)
  await rm(path, { force: true })
  try {
    return await listenOn(path)
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
  const held = dataDir === undefined ? undefined : await lock(dataDir)
  const pglite = dataDir === undefined ? new PGlite() : new PGlite(join(dataDir, "pglite"))
  await pglite.waitReady
  const kysely = new Kysely<Tables>({ dialect: new PGliteDialect({ pglite }) })
  return {
    kind: "embedded",
    place: dataDir === undefined ? "memory" : resolve(dataDir),
    kysely,
    migrationSession: async () => ({
      script: (sql) => pglite.exec(sql),
      names: async (sql) => (await pglite.query<{ name: string }>(sql)).rows.map((row) => row.name),
      close: async () => {},
    }),
    listen: (channel, onMessage) => pglite.listen(channel, onMessage),
    close: async () => {
      await kysely.destroy()
      held?.close()
    },
  }
}
