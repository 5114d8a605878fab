// The embedded database in two hands: one process has it open, and another one asks through its door.

import { Effect } from "effect"
import { sql } from "kysely"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { makeEmbedded, reachEmbedded } from "../../src/database/embedded.ts"
import type { CommandEngine, Engine } from "../../src/database/engine.ts"
import { toDatabaseError } from "../../src/database/errors.ts"
import { migrate } from "../../src/database/migrations.ts"
import { query } from "../../src/database/schema.ts"
import { makeDataDir } from "../support/embedded-copies.ts"
import { eventually, sleep } from "../support/waiting.ts"

let dataDir: string
let inside: Engine
let outside: CommandEngine

beforeAll(async () => {
  const own = await makeDataDir()
  dataDir = own.path
  inside = await makeEmbedded(dataDir)
  // A command that comes while the service is starting waits until its database is up to date.
  const reaching = reachEmbedded(dataDir)
  await sleep(200)
  await Effect.runPromise(migrate(inside))
  outside = await reaching
  await rowsOf(inside, "CREATE TABLE t (n integer UNIQUE)")
  return async () => {
    await outside.close()
    await inside.close()
    await own.drop()
  }
})

const rowsOf = async ({ kysely }: CommandEngine, text: string): Promise<ReadonlyArray<unknown>> =>
  (await kysely.executeQuery(sql.raw(text).compile(query))).rows

const numbers = async (): Promise<ReadonlyArray<number>> =>
  (await rowsOf(inside, "SELECT n FROM t ORDER BY n")).map((row) => (row as { n: number }).n)

describe("a query through the door", () => {
  it("answers as the database itself does, whatever the values are", async () => {
    const bytes = new Uint8Array([0, 10, 13, 255])
    const time = new Date(1_800_000_000_123)
    const statement = sql`
      SELECT ${bytes}::bytea AS bytes, ${time}::timestamptz AS time, ${["a\nb", "ü"]}::text[] AS texts,
        ${JSON.stringify({ time: [null, 1.5, { a: "\u2028\n" }] })}::jsonb AS json, 9007199254740993::bigint AS big,
        ${null}::text AS nothing`.compile(query)
    const [through] = (await outside.kysely.executeQuery(statement)).rows
    const [own] = (await inside.kysely.executeQuery(statement)).rows as ReadonlyArray<Record<string, unknown>>
    expect(own).toMatchObject({ bytes, time, texts: ["a\nb", "ü"], nothing: null })
    // A number too large for JSON is a text there, as PostgreSQL's driver has it.
    expect(through).toEqual({ ...own, big: String(own?.["big"]) })
  })

  it("is refused as the database refuses it, and the next one is answered", async () => {
    const refused = await rowsOf(outside, "INSERT INTO t VALUES (1), (1)").catch(toDatabaseError)
    expect(refused).toMatchObject({ _tag: "QueryRefused", code: "23505", constraint: "t_n_key" })
    expect(await numbers()).toEqual([])
    expect(await Promise.all([1, 2, 3].map((n) => rowsOf(outside, `SELECT ${n} AS n`)))).toEqual([
      [{ n: 1 }],
      [{ n: 2 }],
      [{ n: 3 }],
    ])
  })
})

describe("a session through the door", () => {
  afterAll(() => rowsOf(inside, "DELETE FROM t"))

  it("is one transaction, and what others write meanwhile waits and is no part of it", async () => {
    const session = await outside.migrationSession()
    await session.script("BEGIN; INSERT INTO t VALUES (10)")
    const meanwhile = rowsOf(inside, "INSERT INTO t VALUES (11)")
    await sleep(50)
    expect(await session.names("SELECT n AS name FROM t")).toEqual(["10"])
    await session.script("ROLLBACK")
    await session.close()
    await meanwhile
    expect(await numbers()).toEqual([11])

    const other = await outside.migrationSession()
    await other.script("BEGIN; INSERT INTO t VALUES (12); COMMIT")
    await other.close()
    expect(await numbers()).toEqual([11, 12])
  })

  it("that ends in the middle leaves nothing behind", async () => {
    const session = await outside.migrationSession()
    await session.script("BEGIN; INSERT INTO t VALUES (20)")
    await session.close()
    expect(await numbers()).not.toContain(20)
  })

  it("that falls silent in the middle is given up: the calls go on", async () => {
    const session = await outside.migrationSession()
    await session.script("BEGIN; INSERT INTO t VALUES (30)")
    expect(await numbers()).not.toContain(30)
    await expect(session.script("COMMIT")).rejects.toThrow("has closed the connection")
  })
})

it("whoever asks learns that the process with the database has ended, and the next one opens it", async () => {
  const { drop, path: other } = await makeDataDir()
  const first = await makeEmbedded(other)
  await Effect.runPromise(migrate(first))
  const guest = await reachEmbedded(other)
  await first.close()
  const error = await rowsOf(guest, "SELECT 1").catch(toDatabaseError)
  expect(error).toMatchObject({ _tag: "DatabaseUnavailable" })
  await guest.close()
  const next = await eventually("it is free", () => reachEmbedded(other).catch(() => undefined))
  expect(await rowsOf(next, "SELECT 1 AS n")).toEqual([{ n: 1 }])
  await next.close()
  await drop()
})
