// Starts the service as a process of its own on a free port, and reads its log.

import { fileURLToPath } from "node:url"
import { Deferred, Effect, Fiber, Option, Schema, type Scope, Stream } from "effect"
import { ChildProcess, type ChildProcessSpawner } from "effect/process"
import { CommandFailed } from "./run-command.ts"

const LogLine = Schema.StructWithRest(Schema.Struct({ message: Schema.String }), [
  Schema.Record(Schema.String, Schema.Unknown),
])
const decodeLogLine = Schema.decodeUnknownOption(Schema.fromJsonString(LogLine))

/** The service while it runs; its scope stops it. */
export interface ServiceProcess {
  readonly url: string
  /** Every line it has logged so far. */
  readonly log: ReadonlyArray<typeof LogLine.Type>
  /** Lets it finish what is in flight; the exit code. */
  readonly stop: Effect.Effect<number, CommandFailed>
}

const main = fileURLToPath(new URL("../main.ts", import.meta.url))
const runtimeArguments = process.versions["deno"] === undefined ? [] : ["run", "-A"]

const startsWithin = "10 seconds"
// It takes up to 12 s to finish what is in flight; nothing is, by the time anybody waits for this.
const stopsWithin = "15 seconds"

const toFailure = (message: string) => new CommandFailed({ message })

/**
 * Starts it on this runtime in `directory`, with `env` as its whole environment: settings of this machine
 * (a database, a fleet) stay out of it.
 */
export const startServiceProcess = Effect.fnUntraced(function* (options: {
  readonly directory: string
  readonly env: Record<string, string>
}): Effect.fn.Return<ServiceProcess, CommandFailed, Scope.Scope | ChildProcessSpawner.ChildProcessSpawner> {
  const child = yield* ChildProcess.make(process.execPath, [...runtimeArguments, main], {
    cwd: options.directory,
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      NODE_ENV: "production",
      PORT: "0",
      HOST: "127.0.0.1",
      ...options.env,
    },
    stdin: "ignore",
    // In our process group, so that a terminal which closes takes it along.
    detached: false,
    forceKillAfter: stopsWithin,
  }).pipe(Effect.mapError((error) => toFailure(`The service could not be started: ${error.message}`)))

  const log: Array<typeof LogLine.Type> = []
  const unread: Array<string> = []
  const port = yield* Deferred.make<number>()
  const reading = yield* child.all.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((text) => {
      const line = decodeLogLine(text)
      if (Option.isNone(line)) unread.push(text)
      else log.push(line.value)
      return Option.isSome(line) && line.value.message === "Listening"
        ? Deferred.succeed(port, Number(line.value["port"]))
        : Effect.void
    }),
    Effect.ignore,
    Effect.forkScoped,
  )
  const ended = Effect.flatMap(Fiber.await(reading), () =>
    Effect.fail(toFailure(["The service ended before it listened:", ...unread].join("\n"))),
  )
  const listening = yield* Effect.raceFirst(Deferred.await(port), ended).pipe(
    Effect.timeoutOrElse({
      duration: startsWithin,
      orElse: () => Effect.fail(toFailure(`The service did not listen within ${startsWithin}.`)),
    }),
  )
  return {
    url: `http://127.0.0.1:${listening}`,
    log,
    stop: Effect.andThen(
      child.kill({ killSignal: "SIGTERM", forceKillAfter: stopsWithin }),
      child.exitCode,
    ).pipe(Effect.mapError((error) => toFailure(`The service did not stop as it should: ${error.message}`))),
  }
})
