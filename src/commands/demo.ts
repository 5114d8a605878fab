// `npm run demo`: the real service, two sample workers and a few calls, told as a timeline. Nothing is faked:
// every line is said after what it says was seen, and what is not as it should be ends the demo with exit code 1.

import { randomBytes } from "node:crypto"
import { Console, Effect, FileSystem, Redacted } from "effect"
import { Command } from "effect/cli"
import { webhookPath } from "../http/webhook-routes.ts"
import { bold, dim, green, red } from "./colours.ts"
import { eventBody, type MadeUpCall, makeUpCall } from "./made-up-call.ts"
import { CommandFailed, runCommand } from "./run-command.ts"
import { type SampleWorker, startSampleWorker } from "./sample-worker.ts"
import { send, type Target } from "./sending.ts"
import { type ServiceProcess, startServiceProcess } from "./service-process.ts"
import type { Answered } from "./signing.ts"

interface Stage {
  readonly workers: readonly [SampleWorker, SampleWorker]
  readonly service: ServiceProcess
  readonly livekit: Target
  /** Every call that rang, in order. */
  readonly calls: Array<MadeUpCall>
  /** What was not as it should be. */
  readonly wrong: Array<string>
}

const say = (text: string) =>
  Console.log(`${dim(`${Math.round(performance.now())} ms`.padStart(9))}  ${text}`)

const title = (text: string) => Console.log(`\n${" ".repeat(11)}${bold(text)}`)

const check = ({ wrong }: Stage, what: string, holds: boolean) => {
  if (holds) return say(`${green("checked:")} ${what}`)
  wrong.push(what)
  return say(`${red("NOT SO:")} ${what}`)
}

const secret = () => randomBytes(24).toString("hex")

const startWorker = (name: string, coreSecret: string) =>
  Effect.acquireRelease(
    Effect.promise(() => startSampleWorker({ name, secret: coreSecret })),
    (worker) => Effect.promise(() => worker.stop()),
  )

/** Asks every 20 ms, for 10 s at most; whether it became true. */
const eventually = (ask: Effect.Effect<boolean>) =>
  Effect.sleep("20 millis").pipe(
    Effect.andThen(ask),
    Effect.repeat({ until: (answer) => answer }),
    Effect.timeoutOption("10 seconds"),
    Effect.map((answer) => answer._tag === "Some"),
  )

const isReady = ({ url }: ServiceProcess) =>
  Effect.promise(async () => {
    const response = await fetch(`${url}/readyz`)
    await response.text()
    return response.ok
  })

const bothUp = ({ log }: ServiceProcess) =>
  Effect.sync(() => log.filter(({ message }) => message === "Worker up").length === 2)

const setUp = Effect.gen(function* () {
  yield* title("The stage: all of it on this machine, nobody outside is called")
  const files = yield* FileSystem.FileSystem
  const directory = yield* Effect.orDie(files.makeTempDirectoryScoped({ prefix: "switchhook-demo-" }))
  const coreSecret = secret()
  const workers = [
    yield* startWorker("worker-1", coreSecret),
    yield* startWorker("worker-2", coreSecret),
  ] as const
  for (const { name, url } of workers) yield* say(`${name} listens on ${url}`)
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
  yield* say(`Switchhook listens on ${service.url}, with a new database in ${directory}`)
  const ready = Effect.zipWith(isReady(service), bothUp(service), (one, other) => one && other)
  if (!(yield* eventually(ready))) {
    return yield* new CommandFailed({ message: "Switchhook did not become ready within 10 s." })
  }
  yield* say("Switchhook is ready (/readyz): it has a database and keys, and both workers are up")
  const livekit = { webhook: `${service.url}${webhookPath}`, key, secret: Redacted.make(apiSecret) }
  return { workers, service, livekit, calls: [], wrong: [] } satisfies Stage as Stage
})

/** The names of the workers that were asked to take the call, once for each time. */
const asked = ({ workers }: Stage, { callId }: MadeUpCall) =>
  workers.flatMap(({ name, seen }) => seen.filter(({ body }) => body["call_id"] === callId).map(() => name))

const nextCaller = (stage: Stage) => {
  const call = makeUpCall({ from: `+1555123000${stage.calls.length + 1}` })
  stage.calls.push(call)
  return call
}

const ring = Effect.fnUntraced(function* (
  stage: Stage,
  call: MadeUpCall,
  body = eventBody(call, "participant_joined"),
) {
  const answered = yield* send(stage.livekit, body)
  return { answered, takers: asked(stage, call) }
})

const inWords = ({ body, status, tookMs }: Answered) => `${status} after ${Math.round(tookMs)} ms, ${body}`

const aCall = Effect.fnUntraced(function* (stage: Stage) {
  yield* title("1. A call comes in")
  const call = nextCaller(stage)
  const body = eventBody(call, "participant_joined")
  yield* say(`${call.from} rings ${call.to}: LiveKit tells Switchhook (call ${call.callId})`)
  const first = yield* ring(stage, call, body)
  yield* say(`${first.takers.join(", ") || "nobody"} took it; LiveKit is answered ${inWords(first.answered)}`)
  yield* check(
    stage,
    "one worker was asked, once",
    first.answered.status === 200 && first.takers.length === 1,
  )

  yield* title("2. LiveKit tells the same call again")
  const retried = yield* ring(stage, call, body)
  yield* say(`the same event, as when an answer got lost: ${inWords(retried.answered)}`)
  const rejoined = yield* ring(stage, call)
  yield* say(`a new event of the same call, as after a reconnect: ${inWords(rejoined.answered)}`)
  const replays = [retried, rejoined].map(({ answered }) => answered)
  const same = replays.every((answered) => answered.replayed && answered.body === first.answered.body)
  yield* check(stage, "both were replayed from the ledger, with the first answer", same)
  yield* check(stage, "no worker was asked again", rejoined.takers.length === 1)
  return stage.workers.findIndex(({ name }) => name === first.takers[0])
})
