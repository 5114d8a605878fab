// `npm run prune`: deletes calls that ended long ago from the database of the settings, beside the running service.

import { Console, Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { leastAgeMs, type Pruned, prune } from "../calls/prune.ts"
import { duration, readSettings } from "../config.ts"
import { openDatabase, orDatabaseFailed } from "./carrier-trunks.ts"
import { CommandFailed, runCommand } from "./run-command.ts"

const flags = {
  olderThan: Flag.String("older-than").pipe(
    Flag.withMetavar("duration"),
    Flag.withDescription("How long ago a call must have ended to go, like 90d or 12h; 1h at least"),
  ),
  dryRun: Flag.Boolean("dry-run").pipe(
    Flag.withDescription("Deletes nothing, and counts what would go"),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
  batch: Flag.Int("batch").pipe(
    Flag.filter(
      (most) => most >= 1 && most <= 10_000,
      () => "a number from 1 to 10000",
    ),
    Flag.withDescription(
      "How many calls one statement may look at (default 1000; fewer where it takes long)",
    ),
    Flag.withDefault(1_000),
  ),
}

type Given = Command.Command.Config.Infer<typeof flags>

const units = { s: 1, min: 60, h: 3_600, d: 86_400 }
const readAge = duration(units, 0, 36_500 * units.d)

const ageOf = (given: string): Effect.Effect<number, CommandFailed> => {
  const ageMs = readAge(given.trim())
  if (ageMs === undefined) {
    const message = `--older-than: expected a duration like 90d, 12h or 90min, got ${JSON.stringify(given)}`
    return Effect.fail(new CommandFailed({ message }))
  }
  if (ageMs >= leastAgeMs) return Effect.succeed(ageMs)
  const message = [
    "--older-than: must be 1h at least.",
    "LiveKit delivers an event again for minutes, and a call that is forgotten by then would be handed over anew.",
  ].join(" ")
  return Effect.fail(new CommandFailed({ message }))
}

const amount = (count: number, what: string) =>
  `${count.toLocaleString("en-US")} ${what}${count === 1 ? "" : "s"}`
const summary = ({ calls, rooms }: Pruned) => `${amount(calls, "call")}, ${amount(rooms, "room")}`

/** A line on a terminal, and nothing anywhere else. */
const makeLine = () => {
  const { stderr } = process
  const draw = (text: string) => {
    if (stderr.isTTY) stderr.write(`\r\x1b[K${text}`)
  }
  return {
    show: (done: Pruned) =>
      draw(
        `${summary(done)}${done.atMs === undefined ? "" : `; at ${new Date(done.atMs).toISOString().slice(0, 16)}Z`}`,
      ),
    clear: () => draw(""),
  }
}

const work = Effect.fnUntraced(function* ({ batch, dryRun, olderThan }: Given) {
  const ageMs = yield* ageOf(olderThan)
  const engine = yield* openDatabase(yield* readSettings)
  const line = makeLine()
  let last: Pruned | undefined
  const show = (done: Pruned) => {
    last = done
    line.show(done)
  }
  const done = yield* prune(engine, { ageMs, most: batch, dryRun }, show).pipe(
    Effect.onExit((exit) => {
      line.clear()
      if (exit._tag === "Success" || dryRun || last === undefined) return Effect.void
      return Console.error(`Stopped. Deleted until then: ${summary(last)}. Run it again for the rest.`)
    }),
    orDatabaseFailed(),
  )
  yield* Console.log(dryRun ? `Would delete: ${summary(done)}.` : `Deleted: ${summary(done)}.`)
}, Effect.scoped)

runCommand(
  Command.make("npm run prune --", flags, work).pipe(
    Command.withDescription(
      [
        "Deletes calls that ended long ago, with their attempts, their names and their rooms, from the database of the",
        "settings (environment, env.local, .env); the embedded one through the service that has it open.",
        "Leads stay, and so does every call that has not ended, that is being handed over or watched, or whose room",
        "is still open or holds such a call. Works in batches, each of which is whole or not at all, and rests nine",
        "times as long as it works: it may be run beside the service, stopped at any time, and run again.",
        "Exit code 0 when it is through, 1 if it could not be, 130 if it was stopped.",
      ].join(" "),
    ),
    Command.withExamples([
      { command: "npm run prune -- --older-than 90d --dry-run", description: "How many would go" },
      { command: "npm run prune -- --older-than 90d", description: "Every night, say" },
    ]),
  ),
)
