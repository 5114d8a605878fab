// The database service in the test's own process, on either kind of database.

import { Effect, Layer } from "effect"
import { Database } from "../../src/database/database.ts"
import { makeEmbedded } from "../../src/database/embedded.ts"
import type { DatabaseError } from "../../src/database/errors.ts"
import { makePostgres } from "../../src/database/postgres.ts"
import { type DatabaseKind, makePostgresDatabase } from "./databases.ts"

/** A fresh, migrated database of that kind; dropped with the layer. */
export const databaseLayer = (kind: DatabaseKind): Layer.Layer<Database> =>
  Layer.effect(
    Database,
    Effect.gen(function* () {
      if (kind === "embedded")
        return yield* Database.make(yield* Effect.promise(() => makeEmbedded(undefined)))
      const database = yield* Effect.acquireRelease(Effect.promise(makePostgresDatabase), (made) =>
        Effect.promise(made.drop),
      )
      return yield* Database.make(makePostgres(database.url))
    }),
  ).pipe(Layer.orDie)

type Statement = Parameters<Database["Service"]["run"]>[0]

/** What happens around each statement, whoever runs it. */
export type Around = <A>(
  run: Effect.Effect<ReadonlyArray<A>, DatabaseError>,
  statement: Statement,
) => Effect.Effect<ReadonlyArray<A>, DatabaseError>

/** A database each of whose statements is run within that. */
export const around = (database: Database["Service"], each: Around): Database["Service"] =>
  Database.of({
    ...database,
    run: (statement) => each(database.run(statement), statement),
    runUntil: (statement, untilMs) => each(database.runUntil(statement, untilMs), statement),
  })
