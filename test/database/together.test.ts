// What is asked at the same time, in one statement: each is told of its own, and nobody suffers for another.

import { Effect, Fiber, Layer, ManagedRuntime } from "effect"
import { sql } from "kysely"
import pg from "pg"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { Database } from "../../src/database/database.ts"
import { DatabaseUnavailable } from "../../src/database/errors.ts"
import { query } from "../../src/database/schema.ts"
import { batch } from "../../src/database/statement.ts"
import { together } from "../../src/database/together.ts"
import { databaseKinds, makePostgresDatabase } from "../support/databases.ts"
import { around, databaseLayer, patientPostgres } from "../support/engines.ts"

interface Note {
  readonly id: string
  readonly share: number
  readonly bytes?: Uint8Array
}

interface Noted {
  readonly id: string
  readonly part: number
  readonly bytes: Uint8Array | null
  readonly place: string
}

// Ten is divided, so a share of nothing is refused.
const notes = batch<Note, Noted>(
  (of) => sql`
    WITH put AS (
      INSERT INTO notes (id, part, bytes, words)
      SELECT ${of(({ id }) => id)}::text, 10 / ${of(({ share }) => share)}::integer,
        ${of(({ bytes }) => bytes ?? null)}::bytea, ${of(({ id }) => JSON.stringify({ id }))}::jsonb
      FROM given RETURNING id, part, bytes, words
    )
    SELECT id, part, bytes, words->>'id' AS place FROM put
  `,
  { nameOf: ({ id }) => id, nameIn: ({ id }) => id, orderOf: ({ id }) => id },
)

const table = sql`CREATE TABLE notes (id text PRIMARY KEY, part integer, bytes bytea, words jsonb)`.compile(
  query,
)
const farAway = Number.POSITIVE_INFINITY

const sizes: Array<number> = []
const counting = (database: Database["Service"]) =>
  around(database, (run, statement) => {
    const { parameters, sql: text } = "compile" in statement ? statement.compile() : statement
    sizes.push(text.includes("json_to_recordset") ? Number(parameters[1]) : 1)
    return run
  })

describe.each(databaseKinds)("on %s", (kind) => {
  const runtime = ManagedRuntime.make(databaseLayer(kind))
  let put: (note: Note) => Effect.Effect<Noted | undefined, unknown>

  beforeAll(async () => {
    const database = await runtime.runPromise(Database)
    await runtime.runPromise(Effect.andThen(database.migrated, database.run(table)))
    const ask = together(counting(database), notes)
    put = (note) => ask(note, farAway)
  })
  afterAll(() => runtime.dispose())

  const all = (some: ReadonlyArray<Note>) => {
    sizes.length = 0
    return Promise.all(some.map((note) => Effect.runPromise(Effect.result(put(note)))))
  }

  it("each is told of its own row, whatever the values hold", async () => {
    const some = Array.from({ length: 8 }, (_, n) => ({
      id: `"${n}" \\ \u{1f4de} é\n'`,
      share: n + 1,
      bytes: new Uint8Array([0, 255, n, 92]),
    }))
    const told = await all(some)
    expect(sizes).toEqual([8])
    for (const [n, { bytes, id, share }] of some.entries()) {
      const success = told[n]
      if (success?._tag !== "Success" || success.success === undefined) throw new Error(`none of ${n}`)
      const row = success.success
      expect({ ...row, bytes: [...(row.bytes ?? [])] }).toEqual({
        id,
        place: id,
        part: Math.trunc(10 / share),
        bytes: [...bytes],
      })
    }
  })

  it("whoever comes while a statement is under way gathers for the next, at most 32 in one", async () => {
    const some = Array.from({ length: 80 }, (_, n) => ({ id: `many ${n}`, share: 1 }))
    expect((await all(some)).every(({ _tag }) => _tag === "Success")).toBe(true)
    expect(sizes).toEqual([32, 32, 16])
  })

  it("what the database refuses of one is refused to that one alone", async () => {
    const told = await all([3, 0, 5].map((share) => ({ id: `share ${share}`, share })))
    expect(told.map(({ _tag }) => _tag)).toEqual(["Success", "Failure", "Success"])
    expect(sizes).toEqual([3, 1, 1, 1])
  })

  it("so is one of which no statement can be made", async () => {
    const broken = {
      id: "broken",
      get share(): number {
        throw new Error("no share")
      },
    }
    const asked = [{ id: "whole", share: 1 }, broken].map((note) => Effect.runPromiseExit(put(note)))
    expect((await Promise.all(asked)).map(({ _tag }) => _tag)).toEqual(["Success", "Failure"])
  })

  it("two of one name are never in one statement", async () => {
    const told = await all(["twin", "twin", "other"].map((id) => ({ id, share: 1 })))
    expect(told.map(({ _tag }) => _tag).sort()).toEqual(["Failure", "Success", "Success"])
    // Where the second of them is there first, the others ask alone.
    expect(sizes.slice(0, 2)).toEqual([2, 1])
  })

  it("whoever goes before it is asked is left out", async () => {
    sizes.length = 0
    const gone = Effect.runFork(put({ id: "gone", share: 1 }))
    const stays = Effect.runPromise(put({ id: "stays", share: 1 }))
    await Effect.runPromise(Fiber.interrupt(gone))
    expect(await stays).toMatchObject({ id: "stays" })
    expect(sizes).toEqual([1])
  })
})

it("where the database cannot be asked everybody is told, and nobody asks again by itself", async () => {
  sizes.length = 0
  const play = Effect.gen(function* () {
    const away = around(yield* Database, () => Effect.fail(new DatabaseUnavailable({ cause: "away" })))
    const ask = together(counting(away), notes)
    return yield* Effect.forEach([1, 2, 3], (share) => Effect.flip(ask({ id: `${share}`, share }, farAway)), {
      concurrency: "unbounded",
    })
  })
  const told = await Effect.runPromise(Effect.provide(play, databaseLayer("embedded")))
  expect(told.map(({ _tag }) => _tag)).toEqual(Array(3).fill("DatabaseUnavailable"))
  expect(sizes).toEqual([3])
})

describe("when the next statement begins", () => {
  const begun: Array<number> = []
  const answers: Array<() => void> = []
  const slow = {
    kind: "postgres" as const,
    runUntil: () =>
      Effect.callback<Array<never>>((resume) => {
        begun.push(performance.now())
        answers.push(() => resume(Effect.succeed([])))
      }),
  }
  let ask = together(slow, notes)
  let next = 0
  let since = 0

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] })
    begun.length = 0
    answers.length = 0
    ask = together(slow, notes)
    since = performance.now()
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  const turn = () => new Promise((resolve) => setImmediate(resolve))
  const oneAsks = () => {
    Effect.runFork(ask({ id: `${next++}`, share: 1 }, farAway))
    return turn()
  }
  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)
  const times = () => begun.map((at) => at - since)

  it("while none is answered, it is the later the more are under way", async () => {
    for (let n = 0; n < 40; n++) {
      await oneAsks()
      await pass(10)
    }
    expect(times()).toEqual([0, 10, 30, 70, 150, 310])
  })

  it("it is by those that are under way now, whatever was planned while others were", async () => {
    await oneAsks()
    await pass(1)
    await oneAsks()
    await pass(2)
    answers[0]?.()
    await turn()
    await pass(1)
    await oneAsks()
    await pass(20)
    expect(times()).toEqual([0, 3, 13])
  })

  it("one that had its time holds up nobody who comes after another one is answered", async () => {
    await oneAsks()
    await pass(1)
    await oneAsks()
    await pass(10)
    await oneAsks()
    await pass(3)
    answers[1]?.()
    await turn()
    expect(times()).toEqual([0, 10, 14])
  })
})

describe("on postgres, while a row is locked", () => {
  it("only those who need it wait", async () => {
    const made = await makePostgresDatabase()
    const engine = patientPostgres(made.url)
    const layer = Layer.effect(Database, Database.make(engine))
    const locker = new pg.Client({ connectionString: made.url })
    await locker.connect()
    const play = Effect.gen(function* () {
      const database = yield* Database
      yield* database.migrated
      yield* database.run(table)
      const ask = together(counting(database), notes)
      const locking = Effect.promise(() =>
        locker.query("BEGIN; INSERT INTO notes (id) VALUES ('locked')").then(() => undefined),
      )
      yield* locking
      sizes.length = 0
      const blocked = yield* Effect.forkChild(ask({ id: "locked", share: 1 }, farAway))
      // Together with the one that must wait, and after it.
      const beside = yield* Effect.forEach(
        ["a", "z"],
        (id) => Effect.timeout(ask({ id, share: 1 }, farAway), "20 seconds"),
        { concurrency: "unbounded" },
      )
      const later = yield* Effect.timeout(ask({ id: "later", share: 1 }, farAway), "20 seconds")
      expect([...beside, later].map((row) => row?.id)).toEqual(["a", "z", "later"])
      expect(blocked.pollUnsafe()).toBeUndefined()
      yield* Effect.promise(() => locker.query("ROLLBACK"))
      expect(yield* Fiber.join(blocked)).toMatchObject({ id: "locked" })
    })
    await Effect.runPromise(Effect.provide(play, layer)).finally(async () => {
      await locker.end()
      await made.drop()
    })
  })
})

describe("what cannot be a batch", () => {
  const naming = { nameOf: () => "", nameIn: () => "", orderOf: () => "" }
  it.each([
    [
      "does not begin with WITH",
      batch<number, unknown>((of) => sql`SELECT ${of((n) => n)}::integer`, naming),
    ],
    [
      "has something without a type",
      batch<number, unknown>((of) => sql`WITH a AS (SELECT ${of((n) => n)})`, naming),
    ],
    [
      "has something of two types",
      batch<number, unknown>((of) => {
        const same = of((n) => n)
        return sql`WITH a AS (SELECT ${same}::integer, ${same}::text)`
      }, naming),
    ],
  ])("%s", (_, wrong) => {
    expect(() => wrong.statement([1])).toThrow("a batch begins with WITH")
  })
})
