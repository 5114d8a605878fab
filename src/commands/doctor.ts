// `npm run doctor`: looks at the whole set-up, and says of each thing that is wrong why it matters and what mends it.

import { Console, Effect, Option, Result } from "effect"
import { Command, Flag } from "effect/cli"
import { readSettings } from "../config.ts"
import { badSettings } from "../doctor/check-settings.ts"
import { webhookAt } from "../doctor/check-webhook.ts"
import { examine } from "../doctor/doctor.ts"
import type { Finding, Severity } from "../doctor/finding.ts"
import { lookAround } from "../doctor/world.ts"
import { bold, dim, green, red, yellow } from "./colours.ts"
import { CommandFailed, runCommand } from "./run-command.ts"

const flags = {
  url: Flag.String("url").pipe(
    Flag.withMetavar("url"),
    Flag.withDescription("The webhook's URL as LiveKit has it; tried with a signed and an unsigned event"),
    Flag.optional,
  ),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Prints one JSON object, for machines"),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
}

type Given = Command.Command.Config.Infer<typeof flags>

const webhookOf = (given: Option.Option<string>): Effect.Effect<URL | undefined, CommandFailed> => {
  if (Option.isNone(given)) return Effect.succeed(undefined)
  const url = webhookAt(given.value)
  if (url !== undefined) return Effect.succeed(url)
  const message = "--url: expected an address like https://switchhook.example.com, without user and password"
  return Effect.fail(new CommandFailed({ message }))
}

const colours = { ok: green, warning: yellow, error: red } as const

// Names come from LiveKit and from others: none of them may move the terminal's cursor.
const printable = (text: string) => text.replace(/\p{Cc}/gu, " ")

const show = Effect.fnUntraced(function* ({ about, fix, severity, what, why }: Finding) {
  const mark = colours[severity](severity.padEnd(7))
  yield* Console.log(`${mark}  ${bold(`${about}:`)} ${printable(what)}`)
  if (why !== "") yield* Console.log(dim(`         Why: ${printable(why)}`))
  if (fix !== "") yield* Console.log(`         Fix: ${printable(fix)}`)
})

const count = (findings: ReadonlyArray<Finding>, severity: Severity) =>
  findings.filter((finding) => finding.severity === severity).length

const several = (number: number, word: string) => `${number} ${word}${number === 1 ? "" : "s"}`

const summary = (errors: number, warnings: number) => {
  if (errors > 0) return red(`${several(errors, "error")}, ${several(warnings, "warning")}.`)
  return warnings > 0
    ? yellow(`No error, ${several(warnings, "warning")}.`)
    : green("All is as it should be: calls can come.")
}

const report = Effect.fnUntraced(function* (findings: ReadonlyArray<Finding>, json: boolean) {
  const [errors, warnings] = [count(findings, "error"), count(findings, "warning")]
  if (json) {
    yield* Console.log(JSON.stringify({ ok: errors === 0, errors, warnings, findings }, null, 2))
  } else {
    for (const finding of findings) yield* show(finding)
    yield* Console.log(`\n${summary(errors, warnings)}`)
  }
  if (errors > 0) return yield* new CommandFailed({ message: "" })
})

const doctor = Effect.fnUntraced(function* ({ json, url }: Given) {
  const webhook = yield* webhookOf(url)
  const settings = yield* Effect.result(readSettings)
  const findings = Result.isFailure(settings)
    ? badSettings(settings.failure)
    : yield* Effect.flatMap(lookAround(settings.success, webhook), examine)
  yield* report(findings, json)
})

runCommand(
  Command.make("npm run doctor --", flags, doctor).pipe(
    Command.withDescription(
      [
        "Looks at the whole set-up: settings, database, LiveKit's keys and clock, trunks, dispatch rules and numbers,",
        "every worker, and with --url the webhook as LiveKit would use it.",
        "Of each thing that is wrong: what, why it matters, and the command or setting that mends it.",
        "Changes nothing and hands over no call. Exit code 0 without an error, else 1.",
      ].join(" "),
    ),
    Command.withExamples([
      { command: "npm run doctor", description: "What can be seen from this machine" },
      {
        command: "npm run doctor -- --url https://switchhook.example.com",
        description: "The webhook, too, as LiveKit has it",
      },
      { command: "npm run --silent doctor -- --json", description: "For machines" },
    ]),
  ),
)
