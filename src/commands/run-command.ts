// How every command starts and ends: its flags, its settings, its exit code and what it says when it fails.

import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Cause, Console, Data, Effect, Exit, Layer, type Runtime } from "effect"
import { CliConfig, CliError, CliOutput, Command, GlobalFlag } from "effect/cli"
import { environment } from "../config.ts"
import { version } from "../version.ts"

/** The command did not do what it was asked to; the message is for a person, and empty where all was said. */
export class CommandFailed extends Data.TaggedError("CommandFailed")<{ readonly message: string }> {}

// A mistyped flag needs one sentence; the whole help would push it off the screen.
const presenter: CliOutput.Presenter = {
  present: (event) =>
    event._tag === "InvalidInvocation"
      ? Console.error(
          [...event.errors.map((error) => error.message), "--help explains every flag."].join("\n"),
        )
      : CliOutput.defaultPresenter.present(event),
}

const report = (cause: Cause.Cause<unknown>) => {
  const error = Cause.squash(cause)
  if (CliError.isCliError(error)) return
  if (Cause.hasDies(cause)) return console.error(Cause.pretty(cause))
  const message = error instanceof Error ? error.message : String(error)
  if (message !== "") console.error(message)
}

const interrupted = 130

// Not `onExit`, which leaves a success to end by itself: the embedded database leaves a timer behind that would
// keep the process for good.
const teardown: Runtime.Teardown = (exit) => {
  if (Exit.isSuccess(exit)) process.exit(0)
  if (Cause.hasInterruptsOnly(exit.cause)) process.exit(interrupted)
  report(exit.cause)
  process.exit(1)
}

const services = Layer.mergeAll(
  NodeServices.layer,
  CliConfig.layer({ builtIns: [GlobalFlag.Help] }),
  CliOutput.layerPresenter(presenter),
  environment,
)

/** Runs a command as the process: exit code 0 when it succeeds, 1 when it fails, 130 when it is interrupted. */
export const runCommand = <Name extends string, Input, ContextInput, E>(
  command: Command.Command<Name, Input, ContextInput, E, Command.Environment>,
): void => {
  // A terminal that is closed must end a command like Ctrl-C, with everything it has started.
  process.once("SIGHUP", () => process.kill(process.pid, "SIGTERM"))
  Command.run(command, { version }).pipe(
    Effect.provide(services),
    NodeRuntime.runMain({ disableErrorReporting: true, teardown }),
  )
}
