// `npm run migrate`: brings the database of the settings up to date, as the service does at its start.

import { Console, Effect } from "effect"
import { Command } from "effect/cli"
import { readSettings } from "../config.ts"
import { reachEngine } from "../database/database.ts"
import { migrate } from "../database/migrations.ts"
import { runCommand } from "./run-command.ts"

const bringUpToDate = Effect.scoped(
  Effect.gen(function* () {
    const settings = yield* readSettings
    const database = yield* reachEngine(settings.database)
    const applied = yield* migrate(database)
    for (const file of applied) yield* Console.log(`Applied ${file}`)
    const count = applied.length === 1 ? "1 migration" : `${applied.length} migrations`
    const change = applied.length === 0 ? "nothing to do" : `${count} applied`
    yield* Console.log(`The ${database.kind} database ${database.place} is up to date: ${change}.`)
  }),
)

runCommand(
  Command.make("npm run migrate", {}, () => bringUpToDate).pipe(
    Command.withDescription(
      [
        "Brings the database of the settings (environment, env.local, .env) up to date.",
        "The service does the same at its start; running this first shows what it would do.",
        "DATABASE_URL names a PostgreSQL database; without it, it is the embedded one in DATA_DIR,",
        "through the running service where one has it open.",
      ].join(" "),
    ),
    Command.withExamples([
      { command: "npm run migrate", description: "The database of the settings" },
      {
        command: "DATABASE_URL=postgres://user:password@host:5432/switchhook npm run migrate",
        description: "A certain PostgreSQL database",
      },
    ]),
  ),
)
