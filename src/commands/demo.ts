// `npm run demo`: the real service, two sample workers and a few calls, told as a timeline. Nothing is faked:
// every line is said after what it says was seen, and what is not as it should be ends the demo with exit code 1.

import { Console, Effect, Redacted } from "effect"
import { Command } from "effect/cli"
import { dim, green, red } from "./colours.ts"
import { eventually, readRecords, type Stage, say, secret, setUp, title } from "./demo-stage.ts"
import { answerToEnd, eventBody, type MadeUpCall, makeUpCall } from "./made-up-call.ts"
import { CommandFailed, runCommand } from "./run-command.ts"
import type { SampleWorker } from "./sample-worker.ts"
import { send } from "./sending.ts"
import type { Answered } from "./signing.ts"

const check = ({ wrong }: Stage, what: string, holds: boolean) => {
  if (holds) return say(`${green("checked:")} ${what}`)
  wrong.push(what)
  return say(`${red("NOT SO:")} ${what}`)
}

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

const tellLiveKits = Effect.fnUntraced(function* (
  stage: Stage,
  call: MadeUpCall,
  event: string,
  who: "caller" | "agent" = "caller",
) {
  const { status } = yield* send(stage.livekit, eventBody(call, event, who))
  if (status !== 200) yield* check(stage, `${event} is answered 200, not ${status}`, false)
})

const aCall = Effect.fnUntraced(function* (stage: Stage) {
  yield* title("1. A call comes in")
  const call = nextCaller(stage)
  yield* tellLiveKits(stage, call, "room_started")
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

  yield* title("3. Somebody answers, the caller hangs up, the room closes")
  for (const { afterMs, event, what, who } of answerToEnd) {
    yield* Effect.sleep(afterMs)
    yield* tellLiveKits(stage, call, event, who)
    yield* say(what)
  }
  const ended = () =>
    stage.service.log.find((line) => line.message === "Call ended" && line["call_id"] === call.callId)
  yield* eventually(Effect.sync(() => ended() !== undefined))
  const line = ended()
  yield* say(
    `Switchhook logs: Call ended, ${line?.["status"]} after ${line?.["duration_s"]} s, by the ${line?.["hung_up_by"]}`,
  )
  return stage.workers.findIndex(({ name }) => name === first.takers[0])
})

/** What the service logged about a call; the lines come over a pipe, a moment after the answer. */
const logOf = Effect.fnUntraced(function* ({ service }: Stage, { callId }: MadeUpCall) {
  const lines = () => service.log.filter((line) => line["call_id"] === callId)
  yield* eventually(Effect.sync(() => lines().some(({ message }) => message.startsWith("Dispatch"))))
  return lines()
})

const ringNext = Effect.fnUntraced(function* (stage: Stage, dead: SampleWorker) {
  const call = nextCaller(stage)
  yield* say(`${call.from} rings ${call.to}`)
  yield* tellLiveKits(stage, call, "room_started")
  const { answered, takers } = yield* ring(stage, call)
  const lines = yield* logOf(stage, call)
  const missed = lines.find((line) => line.message === "Worker not reached" && line["worker"] === dead.name)
  if (missed !== undefined)
    yield* say(`${dead.name} was picked, but not reached (${missed["why"]}): nothing was sent`)
  yield* say(`${takers.join(", ") || "nobody"} took it; LiveKit is answered ${inWords(answered)}`)
  return { answered, takers, missed: missed !== undefined }
})

const aDeath = Effect.fnUntraced(function* (stage: Stage, dead: SampleWorker, alive: SampleWorker) {
  yield* title(`4. ${dead.name} dies, and the next call comes in`)
  yield* Effect.promise(() => dead.stop())
  yield* say(`${dead.name} is killed: nothing listens on ${dead.url} any more`)
  // The least loaded worker is the one that has just died. Only a health probe in this very moment may be
  // faster than the call, or a reservation that ended may leave the choice to chance.
  let noticed = false
  for (let calls = 0; calls < 5 && !noticed; calls++) {
    const { answered, missed, takers } = yield* ringNext(stage, dead)
    const probed = stage.service.log.find(
      (line) => line.message === "Worker down" && line["worker"] === dead.name,
    )
    if (probed !== undefined) yield* say(`a health probe had found ${dead.name} down (${probed["why"]})`)
    noticed = missed || probed !== undefined
    const taken = answered.status === 200 && takers.join() === alive.name
    yield* check(stage, `the caller noticed nothing: ${alive.name} has the call, alone`, taken)
  }
  yield* check(stage, `Switchhook has noticed that ${dead.name} is gone`, noticed)

  yield* title("5. One more call")
  const { answered, missed, takers } = yield* ringNext(stage, dead)
  const direct = answered.status === 200 && takers.join() === alive.name && !missed
  yield* check(stage, `${dead.name} was not even tried`, direct)
})

const aForgery = Effect.fnUntraced(function* (stage: Stage) {
  yield* title("6. Somebody who does not have the secret")
  const call = makeUpCall({ from: "+15550006666" })
  const forger = { ...stage.livekit, secret: Redacted.make(secret()) }
  const answered = yield* send(forger, eventBody(call, "participant_joined"))
  yield* say(`${call.from} seems to ring, but the signature is forged: ${answered.status}`)
  const refused = answered.status === 401 && asked(stage, call).length === 0
  yield* check(stage, "refused, and no worker has heard of it", refused)
})

const inSeconds = (ms: string | number | null) => (ms === null ? "-" : `${Number(ms) / 1000} s`)

const theRecords = Effect.fnUntraced(function* (stage: Stage) {
  yield* title("What its database has kept")
  const { calls, sessions } = yield* readRecords(stage)
  for (const row of calls) {
    const times = `rang ${inSeconds(row.ring_ms)}, lasted ${inSeconds(row.duration_ms)}`
    const end = row.ended_at_ms === null ? "" : `, ${times}, ${row.end_reason} by the ${row.hung_up_by}`
    const what = `${row.status}${end} (${row.state} by ${row.worker})`
    yield* say(`call ${row.caller_e164} → ${row.dialed_e164}: ${what}`)
  }
  for (const row of sessions) yield* say(`session ${row.room_sid}: ${row.status}`)
  const [first, ...others] = stage.calls.map(({ callId }) => calls.find((row) => row.sip_call_id === callId))
  const ended = first?.status === "completed" && first.hung_up_by === "caller" && first.answerers === 1
  yield* check(stage, "the first call is completed: answered once, hung up by the caller", ended)
  const ringing = others.every((row) => row?.status === "ringing" && row.state === "accepted")
  yield* check(stage, "the others are accepted, and ring until somebody joins their room", ringing)
  const stopped = sessions.find(({ room_sid }) => room_sid === first?.room_sid)?.status === "stopped"
  yield* check(stage, "the first call's room is stopped", stopped)
})

const theEnd = Effect.fnUntraced(function* (stage: Stage) {
  yield* title("In the end")
  const takers = stage.calls.map((call) => asked(stage, call))
  for (const [index, { from }] of stage.calls.entries()) {
    yield* say(`${from} was given to ${takers[index]?.join(" and ") || "nobody"}`)
  }
  const once = takers.every((workers) => workers.length === 1)
  yield* check(stage, `each of the ${stage.calls.length} calls was given to one worker, once`, once)
  const code = yield* stage.service.stop
  yield* check(stage, "Switchhook stopped cleanly when it was asked to", code === 0)
  yield* theRecords(stage)
})

const story = Effect.gen(function* () {
  const stage = yield* setUp
  const first = yield* aCall(stage)
  const [alive, dead] = first === 1 ? [stage.workers[1], stage.workers[0]] : stage.workers
  yield* aDeath(stage, dead, alive)
  yield* aForgery(stage)
  yield* theEnd(stage)
  if (stage.wrong.length === 0) return
  yield* Console.log("\nWhat Switchhook logged:")
  for (const line of stage.service.log) yield* Console.log(dim(JSON.stringify(line)))
  return yield* new CommandFailed({ message: `\nNot as it should be: ${stage.wrong.join("; ")}.` })
})

const demo = Effect.scoped(story).pipe(
  Effect.andThen(say("everything is stopped, and the temporary directory is gone")),
  Effect.andThen(Console.log("\nNext: npm start, and in another terminal npm run ring")),
)

runCommand(
  Command.make("npm run demo", {}, () => demo).pipe(
    Command.withDescription(
      [
        "Shows what Switchhook does: starts the real service and two sample workers on this machine,",
        "rings it with signed webhooks, kills a worker, and says what was seen and when.",
        "Needs no settings, touches no database of yours and leaves nothing behind.",
      ].join(" "),
    ),
    Command.withExamples([{ command: "npm run demo", description: "Takes a few seconds" }]),
  ),
)
