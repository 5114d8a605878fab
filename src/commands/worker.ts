// `npm run worker`: a sample worker that takes every call and says so, to try the service without one's own.

import { Console, Effect, Redacted } from "effect"
import { Command, Flag } from "effect/cli"
import { readSettings } from "../config.ts"
import { CommandFailed, runCommand } from "./run-command.ts"
import { type SeenDispatch, startSampleWorker } from "./sample-worker.ts"

const flags = {
  port: Flag.Int("port").pipe(
    Flag.filter(
      (port) => port >= 0 && port <= 65_535,
      () => "a port from 0 to 65535 (0: any free one)",
    ),
    Flag.withDescription("Where it listens, on this machine only (default 9000)"),
    Flag.withDefault(9000),
  ),
  name: Flag.String("name").pipe(
    Flag.withDescription("What it calls itself when it takes a call (default sample)"),
    Flag.withDefault("sample"),
  ),
}

type Given = Command.Command.Config.Infer<typeof flags>

const tell = ({ body }: SeenDispatch) =>
  console.log(
    `Call from ${body["caller_number"] || "?"} to ${body["dialed_number"] || "?"} in ${body["room_name"]}`,
  )

const work = Effect.fnUntraced(function* ({ name, port }: Given) {
  const { coreSecret } = yield* readSettings
  const worker = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: () => startSampleWorker({ name, secret: Redacted.value(coreSecret), port }),
      catch: (error) =>
        new CommandFailed({ message: `The worker cannot listen: ${(error as Error).message}` }),
    }),
    (started) => Effect.promise(() => started.stop()),
  )
  const { dispatch } = worker.behaviour
  worker.behaviour.dispatch = (request, response) => {
    tell(request)
    dispatch(request, response)
  }
  yield* Console.log(`A sample worker listens on ${worker.url}, with the secret of CXB_CORE_SECRET.`)
  yield* Console.log(`Try next, in another terminal:  CORE_FLEET=${worker.url} npm start`)
  return yield* Effect.never
}, Effect.scoped)

runCommand(
  Command.make("npm run worker --", flags, work).pipe(
    Command.withDescription(
      "A sample worker that follows the worker's contract: it takes every call and prints it.",
    ),
  ),
)
