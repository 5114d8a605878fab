// The database service in the test's own process, on either kind of database.

import { Effect, Layer } from "effect"
import { sql } from "kysely"
import { Patience } from "../../src/database/backlog.ts"
import { Database } from "../../src/database/database.ts"
import { makeEmbedded } from "../../src/database/embedded.ts"
import type { Engine } from "../../src/database/engine.ts"
import type { DatabaseError } from "../../src/database/errors.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { query } from "../../src/database/schema.ts"
import { type DatabaseKind, makePostgresDatabase } from "./databases.ts"
import { makeDataDir } from "./embedded-copies.ts"

const longMs = 60_000

/** Writes are waited for, and not kept for later, however slow the machine is. */
export const patience: Layer.Layer<never> = Layer.succeed(Patience, longMs)

/** PostgreSQL for a test that is not about one that is away or slow: it never counts as that. */
export const patientPostgres = (url: string): Engine => ({
  ...makePostgres(url, { connectionTimeoutMillis: longMs, query_timeout: longMs }),
  ping: async () => {},
})

/** An embedded database of one's own. */
export const makeOwnEmbedded = async (): Promise<Engine> => {
  const { drop, path } = await makeDataDir()
  const engine = await makeEmbedded(path)
  return {
    ...engine,
    close: async () => {
      await engine.close()
      await drop()
    },
  }
}

/** Leases go on for an hour, unless they lapse: a machine that stops for some seconds ends none. */
export const longLeases: Effect.Effect<void, DatabaseError, Database> = Effect.gen(function* () {
  const { run } = yield* Database
  for (const statement of [
    sql`
      CREATE FUNCTION lengthen_lease() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.lease_until := clock_timestamp() + interval '1 hour';
        RETURN NEW;
      END $$`,
    sql`
      CREATE TRIGGER lengthened BEFORE INSERT OR UPDATE OF lease_until ON calls FOR EACH ROW
      WHEN (NEW.lease_until > clock_timestamp() + interval '100 milliseconds')
      EXECUTE FUNCTION lengthen_lease()`,
  ])
    yield* run(statement.compile(query))
})

/** A fresh, migrated database of that kind; dropped with the layer. */
export const databaseLayer = (kind: DatabaseKind): Layer.Layer<Database> =>
  Layer.effect(
    Database,
    Effect.gen(function* () {
      if (kind === "embedded") return yield* Database.make(yield* Effect.promise(makeOwnEmbedded))
      const database = yield* Effect.acquireRelease(Effect.promise(makePostgresDatabase), (made) =>
        Effect.promise(made.drop),
      )
      return yield* Database.make(patientPostgres(database.url))
    }),
  ).pipe(Layer.orDie, Layer.merge(patience))

type Statement = Parameters<Database["Service"]["run"]>[0]

/** The SQL of a statement. */
export const textOf = (statement: Statement): string =>
  ("compile" in statement ? statement.compile() : statement).sql

/** What happens around each statement, whoever runs it. */
export type Around = <A>(
  run: Effect.Effect<ReadonlyArray<A>, DatabaseError>,
  statement: Statement,
) => Effect.Effect<ReadonlyArray<A>, DatabaseError>

/** Whether several gave way to somebody's lock together, whereupon each asks for itself. */
export const gaveWay = (error: DatabaseError, statement: Statement): boolean =>
  error._tag === "QueryRefused" && error.code === "55P03" && textOf(statement).includes("json_to_recordset")

/** A database each of whose statements is run within that. */
export const around = (database: Database["Service"], each: Around): Database["Service"] =>
  Database.of({
    ...database,
    run: (statement) => each(database.run(statement), statement),
    runUntil: (statement, untilMs) => each(database.runUntil(statement, untilMs), statement),
  })
