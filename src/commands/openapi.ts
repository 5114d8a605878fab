// `npm run openapi`: writes the OpenAPI document of the admin API into the file that is kept beside the code.

import { fileURLToPath } from "node:url"
import { Console, Effect, FileSystem } from "effect"
import { Command, Flag } from "effect/cli"
import { openApi } from "../http/admin/docs.ts"
import { CommandFailed, runCommand } from "./run-command.ts"

const flags = {
  check: Flag.Boolean("check").pipe(
    Flag.withDescription("Writes nothing; exit code 1 where the file differs from the code"),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
  file: Flag.String("file").pipe(
    Flag.withMetavar("path"),
    Flag.withDescription("Another file than openapi.json of the project"),
    Flag.withDefault(fileURLToPath(new URL("../../openapi.json", import.meta.url))),
  ),
}

const writeOrCheck = Effect.fnUntraced(function* ({ check, file }: { check: boolean; file: string }) {
  const files = yield* FileSystem.FileSystem
  const text = `${JSON.stringify(openApi(), null, 2)}\n`
  const there = yield* Effect.orElseSucceed(files.readFileString(file), () => undefined)
  if (there === text) return yield* Console.log(`${file} is in step with the code.`)
  if (check) {
    const message = `${file} differs from the code: run npm run openapi, and commit what it writes.`
    return yield* new CommandFailed({ message })
  }
  yield* files.writeFileString(file, text)
  return yield* Console.log(`Wrote ${file}.`)
})

runCommand(
  Command.make("npm run openapi", flags, writeOrCheck).pipe(
    Command.withDescription(
      "Writes openapi.json, the description of the admin API that the service serves at /openapi.json.",
    ),
    Command.withExamples([
      { command: "npm run openapi", description: "After a change of the admin API" },
      { command: "npm run openapi -- --check", description: "What CI does" },
    ]),
  ),
)
