// What the database knows: its version and migrations, the carriers with their DIDs, and the fleet. Reads only.

import { stat } from "node:fs/promises"
import { join } from "node:path"
import { Effect, Result } from "effect"
import { type CompiledQuery, sql } from "kysely"
import { type StoredCarrier, storedCarriers } from "../carriers/stored-trunks.ts"
import type { SettingsShape } from "../config.ts"
import { reachEngine } from "../database/database.ts"
import type { CommandEngine } from "../database/engine.ts"
import { type DatabaseError, toDatabaseError } from "../database/errors.ts"
import { ownMigrations } from "../database/migrations.ts"
import { query } from "../database/schema.ts"
import { settingsStatement } from "../database/system-settings.ts"

export interface StoredDid {
  readonly number: string
  readonly position: number
  readonly carrier_id: string | null
  readonly target: "fleet" | "agent" | null
}

/** A carrier with its DIDs, in their order. */
export interface CarrierWithDids extends StoredCarrier {
  readonly numbers: ReadonlyArray<string>
}

/** What the tables hold; whatever an older schema does not have is empty. */
export interface StoredThings {
  /** Without those that were archived. */
  readonly carriers: ReadonlyArray<CarrierWithDids>
  readonly dids: ReadonlyArray<StoredDid>
  /** `undefined` where it was never made. */
  readonly coreFleet: unknown
  readonly drainedWorkers: unknown
}

export type DatabaseView =
  | {
      readonly kind: "open"
      readonly place: string
      /** As PostgreSQL counts: 140005 is 14.5. */
      readonly version: number
      readonly missing: ReadonlyArray<string>
      readonly unknown: ReadonlyArray<string>
      readonly stored: StoredThings
    }
  /** The embedded one before the first start. */
  | { readonly kind: "not made"; readonly dataDir: string }
  | { readonly kind: "failed"; readonly message: string }

const versionStatement = sql<{
  version: string | number
}>`SELECT current_setting('server_version_num') AS version`.compile(query)
const appliedStatement = sql<{ name: string }>`SELECT name FROM schema_migrations ORDER BY name`.compile(
  query,
)
const didsStatement = sql<StoredDid>`
  SELECT number, position, carrier_id, target FROM dids ORDER BY position, number
`.compile(query)

const rowsOf =
  ({ kysely }: CommandEngine) =>
  <A>(statement: CompiledQuery<A>): Effect.Effect<ReadonlyArray<A>, DatabaseError> =>
    Effect.tryPromise({ try: () => kysely.executeQuery(statement), catch: toDatabaseError }).pipe(
      Effect.map(({ rows }) => rows),
    )

// A table or a column that is not there yet is what the missing migrations are about.
const orNothing = <A>(rows: Effect.Effect<ReadonlyArray<A>, DatabaseError>) =>
  Effect.catchTag(rows, "QueryRefused", () => Effect.succeed<ReadonlyArray<A>>([]))

const storedIn = Effect.fnUntraced(function* (engine: CommandEngine) {
  const rows = rowsOf(engine)
  const carriers = yield* orNothing(storedCarriers(engine))
  const dids = yield* orNothing(rows(didsStatement))
  const byCarrier = Map.groupBy(dids, (did) => did.carrier_id)
  const settings = yield* orNothing(rows(settingsStatement(["core_fleet", "drained_workers"])))
  const settingOf = (name: string) => settings.find(({ key }) => key === name)?.value
  return {
    carriers: carriers
      .filter(({ archived }) => !archived)
      .map((carrier) => ({
        ...carrier,
        numbers: (byCarrier.get(carrier.id) ?? []).map(({ number }) => number),
      })),
    dids,
    coreFleet: settingOf("core_fleet"),
    drainedWorkers: settingOf("drained_workers"),
  }
})

const lookInto = Effect.fnUntraced(function* (engine: CommandEngine) {
  const rows = rowsOf(engine)
  const [first] = yield* rows(versionStatement)
  const applied = (yield* orNothing(rows(appliedStatement))).map(({ name }) => name)
  const own = yield* Effect.promise(ownMigrations)
  return {
    kind: "open" as const,
    place: `${engine.kind} ${engine.place}`,
    version: Number(first?.version ?? 0),
    missing: own.filter((name) => !applied.includes(name)),
    unknown: applied.filter((name) => !own.includes(name)),
    stored: yield* storedIn(engine),
  }
})

const isMade = (dataDir: string) =>
  Effect.promise(() =>
    stat(join(dataDir, "pglite")).then(
      () => true,
      () => false,
    ),
  )

/** Reads the database of the settings, an embedded one through the service that has it open; never makes one. */
export const lookAtDatabase = (database: SettingsShape["database"]): Effect.Effect<DatabaseView> =>
  Effect.gen(function* () {
    if (database.kind === "embedded" && !(yield* isMade(database.dataDir)))
      return { kind: "not made" as const, dataDir: database.dataDir }
    const seen = yield* Effect.result(Effect.scoped(Effect.flatMap(reachEngine(database), lookInto)))
    return Result.isSuccess(seen) ? seen.success : { kind: "failed" as const, message: seen.failure.message }
  })

/** What is stored, where the database could be read. */
export const storedOf = (database: DatabaseView): StoredThings | undefined =>
  database.kind === "open" ? database.stored : undefined
