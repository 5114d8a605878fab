// What a service says to its database, and what has become of it there.

import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import type { PostgresDatabase } from "./databases.ts"
import { bridge } from "./forwarder.ts"

/** In the ids of bodies, so that it would stand in any statement about one. */
export const marked = "marked"

/** What a service that is asked for nothing never says to its database. */
export const ofWebhooks = new RegExp(
  `${marked}|call_key_of|INSERT INTO (?:calls|leads|answerers|sessions)|d\\.number = `,
)

/** A line to the database on which the statements that go over it can be read. */
export const startTap = async (target: { readonly host: string; readonly port: number }) => {
  const sockets = new Set<Socket>()
  let said = ""
  const server = createServer((near) => {
    const far = connect(target.port, target.host)
    near.on("data", (chunk) => {
      said += chunk.toString("latin1")
    })
    bridge(near, far, sockets)
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return {
    port: (server.address() as AddressInfo).port,
    /** How much has been said so far. */
    mark: () => said.length,
    /** What has been said since then, texts of statements and values of parameters alike. */
    since: (mark: number) => said.slice(mark),
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
}

/** How many rows each table has. */
export const rowsIn = async (database: PostgresDatabase): Promise<Record<string, string | undefined>> => {
  const tables = await database.query<{ name: string }>(
    "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename",
  )
  const counts = tables.map(({ name }) => `SELECT '${name}' AS name, count(*) AS n FROM ${name}`)
  const counted = await database.query<{ name: string; n: string }>(counts.join(" UNION ALL "))
  return Object.fromEntries(counted.map(({ n, name }) => [name, n]))
}
