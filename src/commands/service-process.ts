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

const startsWithin = "30 seconds"
// Finishing what is in flight may take it longer; whoever stops it here has waited for every answer.
const stopsWithin = "5 seconds"

const toFailure = (message: string) => new CommandFailed({ message })

const readLog = Effect.fnUntraced(function* (output: Stream.Stream<Uint8Array, unknown>) {
  const log: Array<typeof LogLine.Type> = []
  const unreadable: Array<string> = []
  const port = yield* Deferred.make<number>()
  const reading = yield* output.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((text) => {
      const line = Option.getOrUndefined(decodeLogLine(text))
      if (line === undefined) unreadable.push(text)
      else log.push(line)
      return line?.message === "Listening" ? Deferred.succeed(port, Number(line["port"])) : Effect.void
    }),
    Effect.ignore,
    Effect.forkScoped,
  )
  const ended = Effect.andThen(
    Fiber.await(reading),
    Effect.suspend(() => toFailure(["The service ended before it listened:", ...unreadable].join("\n"))),
  )
  return { log, port: Effect.raceFirst(Deferred.await(port), ended) }
})

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

  const { log, port } = yield* readLog(child.all)
  const listening = yield* Effect.timeoutOrElse(port, {
    duration: startsWithin,
    orElse: () => toFailure(`The service did not listen within ${startsWithin}.`),
  })
  return {
    url: `http://127.0.0.1:${listening}`,
    log,
    // Not `child.kill`: Deno then names the signal as the end of a process that has exited by itself.
    stop: Effect.sync(() => process.kill(child.pid, "SIGTERM")).pipe(
      Effect.andThen(child.exitCode),
      Effect.mapError((error) => toFailure(`The service did not stop as it should: ${error.message}`)),
      Effect.timeoutOrElse({
        duration: stopsWithin,
        orElse: () => toFailure(`The service did not stop within ${stopsWithin}.`),
      }),
    ),
  }
})
