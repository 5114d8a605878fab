// Brings a database up to the numbered files in `sql/`, each once, in order.

import { readdir, readFile } from "node:fs/promises"
import { Data, Effect } from "effect"
import type { CommandEngine, MigrationSession } from "./engine.ts"
import { DatabaseUnavailable, isConnectionTrouble, messageOf } from "./errors.ts"

/** A file of `sql/` that the database refused; it has changed nothing. */
export class MigrationFailed extends Data.TaggedError("MigrationFailed")<{
  readonly file: string
  readonly cause: unknown
}> {
  override get message() {
    return `Migration ${this.file} failed: ${messageOf(this.cause)}`
  }
}

const folder = new URL("../../sql/", import.meta.url)

// Any number will do, as long as every replica takes the same: "swhk".
const lockNumber = 0x73_77_68_6b

const prepare = `
  SELECT pg_advisory_lock(${lockNumber});
  CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
`

const orFailed = (file: string) => (cause: unknown) => {
  throw isConnectionTrouble(cause) ? cause : new MigrationFailed({ file, cause })
}

/** The migrations of this version, in their order. */
export const ownMigrations = async (): Promise<ReadonlyArray<string>> =>
  (await readdir(folder)).filter((name) => /^\d{4}_.+\.sql$/.test(name)).sort()

const applyAll = async (session: MigrationSession) => {
  const files = await ownMigrations()
  await session.script(prepare).catch(orFailed("schema_migrations"))
  const known = new Set(await session.names("SELECT name FROM schema_migrations"))
  const missing = files.filter((name) => !known.has(name))
  for (const name of missing) {
    const script = await readFile(new URL(name, folder), "utf8")
    await session
      .script(
        `BEGIN;\n${script}\nINSERT INTO schema_migrations (name) VALUES ('${name.replaceAll("'", "''")}');\nCOMMIT;`,
      )
      .catch(async (cause) => {
        await session.script("ROLLBACK").catch(() => {})
        return orFailed(name)(cause)
      })
  }
  await session.script(`SELECT pg_advisory_unlock(${lockNumber})`)
  return missing
}

/**
 * Applies what is missing, under an advisory lock that makes other replicas wait.
 * Returns the names of the files that were applied.
 */
export const migrate = (
  engine: Pick<CommandEngine, "migrationSession">,
): Effect.Effect<ReadonlyArray<string>, MigrationFailed | DatabaseUnavailable> =>
  Effect.tryPromise({
    try: async () => {
      const session = await engine.migrationSession()
      try {
        return await applyAll(session)
      } finally {
        await session.close().catch(() => {})
      }
    },
    catch: (cause) => (cause instanceof MigrationFailed ? cause : new DatabaseUnavailable({ cause })),
  })
