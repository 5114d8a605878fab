// `npm run import-numbers`: takes the phone numbers of a file into the database, after showing what that changes.

import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { formats, type Progress, readNumberFile } from "../carriers/import/number-file.ts"
import { planImport } from "../carriers/import/plan.ts"
import { type Outcome, reportJson, reportLines } from "../carriers/import/report.ts"
import { beginImport } from "../carriers/import/store.ts"
import { readSettings, type SettingsShape } from "../config.ts"
import { reachEngine } from "../database/database.ts"
import { runCommand } from "./run-command.ts"

const onOff = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false), Flag.withoutNegation)

const forAll = (name: "carrier" | "tenant" | "campaign") =>
  Flag.String(name).pipe(
    Flag.withMetavar("name"),
    Flag.withDescription(`The ${name} of every number for which the file names none`),
    Flag.optional,
  )

const arguments_ = {
  file: Argument.File("file", { mustExist: true }).pipe(
    Argument.withDescription("The CSV file, or the JSON that Twilio's API or command line gave"),
  ),
  apply: onOff("apply", "Writes what would otherwise only be shown, in one transaction"),
  create: onOff("create", "Makes carriers, tenants and campaigns that do not exist yet"),
  format: Flag.Literals("format", formats).pipe(
    Flag.withDescription("What the file is (default: by its name's ending, else by its first character)"),
    Flag.optional,
  ),
  carrier: forAll("carrier"),
  tenant: forAll("tenant"),
  campaign: forAll("campaign"),
  target: Flag.Literals("target", ["fleet", "agent"]).pipe(
    Flag.withDescription("Who answers every number for which the file does not say"),
    Flag.optional,
  ),
  all: onOff(
    "all",
    "Shows every number, not only the first 20 of each kind (bad lines are always all shown)",
  ),
  json: onOff("json", "Prints everything as one JSON object"),
}

type Given = Command.Command.Config.Infer<typeof arguments_>

const width = 30

/** A bar on a terminal, and nothing anywhere else. */
const makeBar = () => {
  const { stderr } = process
  let last = ""
  const draw = (text: string) => {
    if (!stderr.isTTY || text === last) return
    last = text
    stderr.write(`\r\x1b[K${text}`)
  }
  return {
    step:
      (what: string): Progress =>
      (done, total) => {
        const share = total === 0 ? 1 : Math.min(1, done / total)
        const full = Math.round(share * width)
        const percent = `${Math.floor(share * 100)} %`.padStart(5)
        draw(`${what.padEnd(9)} ${"█".repeat(full)}${"░".repeat(width - full)} ${percent}`)
      },
    clear: () => draw(""),
  }
}

const readFile = (given: Given, region: SettingsShape["defaultRegion"], progress: Progress) =>
  readNumberFile(given.file, {
    format: Option.getOrUndefined(given.format),
    region,
    defaults: {
      carrier: Option.getOrUndefined(given.carrier),
      tenant: Option.getOrUndefined(given.tenant),
      campaign: Option.getOrUndefined(given.campaign),
      target: Option.getOrUndefined(given.target),
    },
    progress,
  })

const work = Effect.fnUntraced(function* (given: Given) {
  const settings = yield* readSettings
  const bar = makeBar()
  yield* Effect.addFinalizer(() => Effect.sync(bar.clear))
  const file = yield* readFile(given, settings.defaultRegion, bar.step("Reading"))
  const engine = yield* reachEngine(settings.database)
  const transaction = yield* beginImport(engine, given.apply)
  const known = yield* transaction.known(file, bar.step("Comparing"))
  const plan = planImport(file, known, given.create, bar.step("Sorting"))
  if (given.apply) yield* transaction.write(plan, bar.step("Writing"))
  const outcome: Outcome = { file: given.file, format: file.format, plan, applied: given.apply }
  return outcome
}, Effect.scoped)

// A process that exits does not wait for a pipe to take a long text.
const print = (text: string) =>
  Effect.callback<void>((resume) => {
    // Whoever has read enough, as `head` has, closes the pipe.
    process.stdout.on("error", () => {})
    process.stdout.write(`${text}\n`, () => resume(Effect.void))
  })

const badLinesExit = 2

const importNumbers = Effect.fnUntraced(function* (given: Given) {
  const outcome = yield* work(given)
  yield* print(given.json ? reportJson(outcome) : reportLines(outcome, given.all).join("\n"))
  // Neither a success nor a failure: the good lines are in, and a script must learn that others are not.
  if (outcome.plan.bad.length > 0) yield* Effect.sync(() => process.exit(badLinesExit))
})

runCommand(
  Command.make("npm run import-numbers --", arguments_, importNumbers).pipe(
    Command.withDescription(
      [
        "Takes phone numbers from a file into the database of the settings (environment, env.local, .env).",
        "Without --apply it is a dry run: it shows what would be added, changed and skipped, and every bad line.",
        "A CSV file (UTF-8) begins with its columns' names: number,carrier,tenant,campaign,target, in any order,",
        "all but number optional. A column that is missing leaves the numbers that exist as they are; an empty",
        "field means none. Carriers, tenants and campaigns go by name. Numbers may be written in any form;",
        "DEFAULT_REGION is the country of those without a country code. New numbers come after those that their",
        "carrier has, in the order of the file. Importing a file again changes nothing.",
        "Exit code 0 if all lines are good, 2 if some are bad (the good ones are taken nevertheless),",
        "1 if nothing could be done.",
      ].join(" "),
    ),
    Command.withExamples([
      { command: "npm run import-numbers -- numbers.csv", description: "What the file would change" },
      { command: "npm run import-numbers -- numbers.csv --apply", description: "The same, written" },
      {
        command: "npm run import-numbers -- twilio.json --carrier Twilio --create --apply",
        description: "Twilio's numbers, under a carrier that is made if it is missing",
      },
    ]),
  ),
)
