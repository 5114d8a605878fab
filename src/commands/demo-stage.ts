// The demo's stage: two sample workers and the real service as a process, on a new database.

import { randomBytes } from "node:crypto"
import { join } from "node:path"
import { Console, Effect, FileSystem, Option, Redacted } from "effect"
import { openEngine } from "../database/database.ts"
import { query } from "../database/schema.ts"
import { webhookPath } from "../http/webhook-routes.ts"
import { bold, dim } from "./colours.ts"
import type { MadeUpCall } from "./made-up-call.ts"
import { CommandFailed } from "./run-command.ts"
import { type SampleWorker, startSampleWorker } from "./sample-worker.ts"
import type { Target } from "./sending.ts"
import { type ServiceProcess, startServiceProcess } from "./service-process.ts"

/** Everything the demo plays with. */
export interface Stage {
  readonly workers: readonly [SampleWorker, SampleWorker]
  readonly service: ServiceProcess
  readonly livekit: Target
  /** Where its database is; to be opened only when the service has stopped. */
  readonly dataDir: string
  /** Every call that rang, in order. */
  readonly calls: Array<MadeUpCall>
  /** What was not as it should be. */
  readonly wrong: Array<string>
}

/** Says something, with the milliseconds since the start. */
export const say = (text: string) =>
  Effect.suspend(() => Console.log(`${dim(`${Math.round(performance.now())} ms`.padStart(9))}  ${text}`))

/** Says what comes next. */
export const title = (text: string) => Console.log(`\n${" ".repeat(11)}${bold(text)}`)

/** A secret that nobody knows. */
export const secret = () => randomBytes(24).toString("hex")

const startWorker = (name: string, coreSecret: string) =>
  Effect.acquireRelease(
    Effect.promise(() => startSampleWorker({ name, secret: coreSecret })),
    (worker) => Effect.promise(() => worker.stop()),
  )

/** Asks every 20 ms, for 10 s at most; whether it became true. */
export const eventually = (ask: Effect.Effect<boolean>): Effect.Effect<boolean> =>
  Effect.sleep("20 millis").pipe(
    Effect.andThen(ask),
    Effect.repeat({ until: (answer) => answer }),
    Effect.timeoutOption("10 seconds"),
    Effect.map(Option.isSome),
  )

const isReady = ({ url }: ServiceProcess) =>
  Effect.tryPromise(async () => {
    const response = await fetch(`${url}/readyz`)
    await response.text()
    return response.ok
  }).pipe(Effect.orElseSucceed(() => false))

const bothUp = ({ log }: ServiceProcess) =>
  Effect.sync(() => log.filter(({ message }) => message === "Worker up").length === 2)

/** Starts the workers and the service, and waits until they are ready; its scope stops them. */
export const setUp = Effect.gen(function* () {
  yield* title("The stage: all of it on this machine, with the demo in the part of LiveKit")
  const files = yield* FileSystem.FileSystem
  const directory = yield* files.makeTempDirectoryScoped({ prefix: "switchhook-demo-" })
  const coreSecret = secret()
  const workers = [
    yield* startWorker("worker-1", coreSecret),
    yield* startWorker("worker-2", coreSecret),
  ] as const
  for (const { name, url } of workers) yield* say(`${name} listens on ${url}`)
  yield* say(`Switchhook starts, with a new database in ${directory}`)
  const key = "demo"
  const apiSecret = secret()
  const service = yield* startServiceProcess({
    directory,
    env: {
      DATA_DIR: "data",
      EMBEDDED_DATABASE: "true",
      LIVEKIT_API_KEY: key,
      LIVEKIT_API_SECRET: apiSecret,
      CXB_CORE_SECRET: coreSecret,
      CORE_FLEET: JSON.stringify(workers.map(({ name, url }) => ({ name, url }))),
    },
  })
  yield* say(`Switchhook listens on ${service.url}`)
  const ready = Effect.zipWith(isReady(service), bothUp(service), (one, other) => one && other)
  if (!(yield* eventually(ready))) {
    return yield* new CommandFailed({ message: "Switchhook did not become ready within 10 s." })
  }
  yield* say("Switchhook is ready (/readyz): it has a database and keys, and both workers are up")
  const stage: Stage = {
    workers,
    service,
    dataDir: join(directory, "data"),
    livekit: { webhook: `${service.url}${webhookPath}`, key, secret: Redacted.make(apiSecret) },
    calls: [],
    wrong: [],
  }
  return stage
})

/** The call log and the sessions, as they stand in the database of the stopped service. */
export const readRecords = ({ dataDir }: Stage) =>
  Effect.acquireUseRelease(
    openEngine({ kind: "embedded", dataDir }),
    ({ kysely }) =>
      Effect.promise(async () => ({
        calls: (await kysely.executeQuery(query.selectFrom("calls").selectAll().orderBy("started_at_ms")))
          .rows,
        sessions: (await kysely.executeQuery(query.selectFrom("sessions").selectAll().orderBy("created_at")))
          .rows,
      })),
    (engine) => Effect.promise(() => engine.close()),
  )
