// Prepared statements: there where they help, and no harm where they cannot be.

import { sql } from "kysely"
import { beforeEach, describe, expect, it } from "vitest"
import type { Engine } from "../../src/database/engine.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { query } from "../../src/database/schema.ts"
import { statement } from "../../src/database/statement.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"

describe("a statement that is run again and again", () => {
  let database: PostgresDatabase
  let engine: Engine

  beforeEach(async () => {
    database = await makePostgresDatabase()
    engine = makePostgres(database.url)
    await database.query("CREATE TABLE things (id integer PRIMARY KEY, name text NOT NULL)")
    await database.query("INSERT INTO things VALUES (1, 'one'), (2, 'two')")
    return async () => {
      await engine.close()
      await database.drop()
    }
  })

  const longer = `/* ${"as long as those that are worth it ".repeat(4)} */`
  const ask = async (id: number) =>
    (
      await sql<{ name: string }>`SELECT * FROM things WHERE id = ${id} ${sql.raw(longer)}`.execute(
        engine.kysely,
      )
    ).rows[0]
  const prepared = async () =>
    (
      await sql<{ count: number }>`SELECT count(*)::integer FROM pg_prepared_statements`.execute(
        engine.kysely,
      )
    ).rows[0]?.count

  it("is prepared the second time, and gives the same", async () => {
    expect(await ask(1)).toMatchObject({ name: "one" })
    expect(await prepared()).toBe(0)
    expect(await ask(2)).toMatchObject({ name: "two" })
    expect(await prepared()).toBe(1)
    for (const id of [1, 2, 1, 2, 1, 2, 1, 2])
      expect(await ask(id)).toMatchObject({ name: id === 1 ? "one" : "two" })
    expect(await ask(3)).toBeUndefined()
    expect(await prepared()).toBe(1)
  })

  it("goes on where a migration has changed its result", async () => {
    for (const id of [1, 2, 1]) await ask(id)
    await database.query("ALTER TABLE things ADD COLUMN more text DEFAULT 'new'")
    for (const id of [1, 2, 1]) expect(await ask(id)).toMatchObject({ more: "new" })
    // The old one, which nobody asks for any more, and the new.
    expect(await prepared()).toBe(2)
  })

  it("goes on behind a pooler that gives it another connection, and is not prepared any more", async () => {
    for (const id of [1, 2, 1]) await ask(id)
    await sql`DEALLOCATE ALL`.execute(engine.kysely)
    for (const id of [1, 2, 1]) expect(await ask(id)).toMatchObject({ name: id === 1 ? "one" : "two" })
    expect(await prepared()).toBe(0)
  })

  it("is the same one without kysely's executor", async () => {
    const thing = statement<[id: number], { name: string }>(
      (of) => sql`SELECT * FROM things WHERE id = ${of((id) => id)}::integer ${sql.raw(longer)}`,
    )
    for (const id of [1, 2, 1]) {
      expect(await engine.run(thing(id))).toMatchObject([{ name: id === 1 ? "one" : "two" }])
      expect((await engine.kysely.executeQuery(thing(id))).rows).toEqual(await engine.run(thing(id)))
    }
    expect(await prepared()).toBe(1)
    await sql`DEALLOCATE ALL`.execute(engine.kysely)
    expect(await engine.run(thing(2))).toMatchObject([{ name: "two" }])
    const again = statement<[id: number]>(
      (of) => sql`INSERT INTO things VALUES (${of((id) => id)}::integer, '')`,
    )
    const backend = () => engine.run(sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`.compile(query))
    const before = await backend()
    await expect(engine.run(again(1))).rejects.toMatchObject({ code: "23505" })
    expect(await backend()).toEqual(before)
  })

  it("fails as it would have failed", async () => {
    const insert = (id: number) =>
      sql`INSERT INTO things VALUES (${id}, 'again') ${sql.raw(longer)}`.execute(engine.kysely)
    await insert(3)
    for (let time = 0; time < 3; time++) await expect(insert(1)).rejects.toMatchObject({ code: "23505" })
    await engine.kysely.transaction().execute(async (within) => {
      await sql`SELECT * FROM things WHERE id = ${1} ${sql.raw(longer)}`.execute(within)
    })
    expect(await ask(3)).toMatchObject({ name: "again" })
  })
})
