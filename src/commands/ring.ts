// `npm run ring`: sends a running Switchhook the webhook of a call, and says what the answer means.

import { Console, Effect, Option, Record } from "effect"
import { Command, Flag } from "effect/cli"
import { readSettings } from "../config.ts"
import { decodeEvent, type WebhookEvent } from "../webhook/event.ts"
import { bold, dim, green, red, yellow } from "./colours.ts"
import { type Explanation, explain, isRetried, isSuccess, type LegRules } from "./explain-answer.ts"
import { answerToEnd, eventBody, type MadeUpCall, makeUpCall } from "./made-up-call.ts"
import { readRecording } from "./recording.ts"
import { CommandFailed, runCommand } from "./run-command.ts"
import { send, showUnsent, type Target, targetOf } from "./sending.ts"
import { showDecision } from "./show-explanation.ts"
import type { Answered } from "./signing.ts"

const text = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description), Flag.optional)

const callFlags = {
  from: text("from", "number", "Who calls, empty for a hidden number (default +15551234567)"),
  to: text("to", "number", "Which number was dialed, empty where LiveKit hides it (default +15557654321)"),
  trunk: text("trunk", "id", "LiveKit's inbound trunk (default ST_madeup)"),
  room: text("room", "name", "The caller's room (default made up: call-_<from>_<12 letters>)"),
  callId: text(
    "call-id",
    "id",
    "The call's sip.callID; the same twice is the same call (default made up: SCL_…)",
  ),
  event: text(
    "event",
    "name",
    "What happened: participant_left, room_started, … (default participant_joined)",
  ),
}

const flags = {
  url: text("url", "url", "Where Switchhook is (default this machine, port PORT of the settings, 3000)"),
  call: callFlags,
  file: Flag.File("file", { mustExist: true }).pipe(
    Flag.withMetavar("recording"),
    Flag.withDescription("Plays recorded webhooks, each signed anew: one JSON object a line, with a body"),
    Flag.optional,
  ),
  pause: Flag.Int("pause").pipe(
    Flag.filter(
      (ms) => ms >= 0 && ms <= 600_000,
      () => "milliseconds from 0 to 600000",
    ),
    Flag.withMetavar("ms"),
    Flag.withDescription("Milliseconds between two webhooks of --file (default 50)"),
    Flag.withDefault(50),
  ),
  answered: Flag.Boolean("answered").pipe(
    Flag.withDescription(
      "Tells of the rest, too: an agent joins the room and answers, and the caller hangs up after 1.5 s",
    ),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
  dryRun: Flag.Boolean("dry-run").pipe(
    Flag.withDescription(
      "Prints what would be sent, and what the service would decide: nothing is written or handed over",
    ),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
}

/** One webhook with its answer, understood. */
interface Delivered {
  readonly event: WebhookEvent | undefined
  readonly answered: Answered
  readonly explanation: Explanation
}

const deliver = Effect.fnUntraced(function* (
  target: Target,
  body: Uint8Array<ArrayBuffer>,
  rules: LegRules,
): Effect.fn.Return<Delivered, CommandFailed> {
  const answered = yield* send(target, body)
  const event = yield* Effect.orElseSucceed(decodeEvent(body), () => undefined)
  return { event, answered, explanation: explain(answered, event, rules) }
})

const colourOf = ({ answered, explanation }: Delivered) => {
  if (!isSuccess(answered)) return red
  return explanation.kind === "noted" ? yellow : green
}

const whatLiveKitDoes = (answered: Answered) =>
  isRetried(answered)
    ? "To this answer LiveKit sends the event again, up to 5 times in all."
    : "To this answer LiveKit sends nothing again: the event would be lost."

const ringOnce = Effect.fnUntraced(function* (
  target: Target,
  call: MadeUpCall,
  event: string,
  rules: LegRules,
) {
  yield* Console.log(`${event}  ${call.from || "(hidden)"} → ${call.to || "(hidden)"}`)
  yield* Console.log(dim(`  call ${call.callId} in room ${call.room} from trunk ${call.trunkId}`))
  yield* Console.log(dim(`  sent to ${target.webhook}, signed with the key ${target.key}`))
  const delivered = yield* deliver(target, eventBody(call, event), rules)
  const { answered, explanation } = delivered
  const head = colourOf(delivered)(`${answered.status} after ${Math.round(answered.tookMs)} ms`)
  yield* Console.log(`${head}  ${explanation.means}`)
  if (answered.body !== "") yield* Console.log(dim(`  ${answered.body.slice(0, 2_000)}`))
  if (explanation.advice !== undefined) yield* Console.log(`Try: ${explanation.advice}`)
  if (isSuccess(answered)) return
  yield* Console.log(whatLiveKitDoes(answered))
  return yield* new CommandFailed({ message: "" })
})

const tellTheRest = Effect.fnUntraced(function* (target: Target, call: MadeUpCall) {
  for (const { afterMs, event, what, who } of answerToEnd) {
    yield* Effect.sleep(afterMs)
    const answered = yield* send(target, eventBody(call, event, who))
    const { body, status } = answered
    if (!isSuccess(answered))
      return yield* new CommandFailed({ message: `${status} to ${event}: ${body.slice(0, 2_000)}` })
    yield* Console.log(`${green(String(status))}  ${event}: ${what}`)
  }
})

const showLine = (index: number, delivered: Delivered) => {
  const { answered, event, explanation } = delivered
  const name = (event?.event ?? "(no event)").padEnd(20)
  const took = `${Math.round(answered.tookMs)} ms`.padStart(7)
  return Console.log(
    `${String(index + 1).padStart(3)}  ${name} ${colourOf(delivered)(String(answered.status))} ${took}  ${explanation.means}`,
  )
}

const showSummary = Effect.fnUntraced(function* (all: ReadonlyArray<Delivered>) {
  const count = (kind: Explanation["kind"]) =>
    all.filter(({ explanation }) => explanation.kind === kind).length
  yield* Console.log(
    `${all.length} delivered: ${count("taken")} taken by a worker, ${count("replayed")} answered from the ledger, ` +
      `${count("noted")} acknowledged, ${count("failed")} failed.`,
  )
  const advice = new Set(all.flatMap(({ explanation }) => explanation.advice ?? []))
  for (const line of advice) yield* Console.log(`Try: ${line}`)
})

const play = Effect.fnUntraced(function* (
  target: Target,
  bodies: ReadonlyArray<Uint8Array<ArrayBuffer>>,
  pause: number,
  rules: LegRules,
) {
  yield* Console.log(dim(`to ${target.webhook}, ${pause} ms apart, signed with the key ${target.key}`))
  const all: Array<Delivered> = []
  for (const [index, body] of bodies.entries()) {
    if (index > 0) yield* Effect.sleep(pause)
    const delivered = yield* deliver(target, body, rules)
    all.push(delivered)
    yield* showLine(index, delivered)
  }
  yield* showSummary(all)
  if (!all.every(({ answered }) => isSuccess(answered))) return yield* new CommandFailed({ message: "" })
})

type Given = Command.Command.Config.Infer<typeof flags>

// Where nobody answers there is still the request to be seen.
const showBoth = (target: Target, body: Uint8Array<ArrayBuffer>) =>
  showUnsent(target, body).pipe(
    Effect.andThen(Console.log(bold("What Switchhook would do"))),
    Effect.andThen(showDecision(target, body)),
    Effect.catchTag("CommandFailed", ({ message }) => Console.log(yellow(message))),
  )

const ringMadeUp = Effect.fnUntraced(function* (
  target: Target,
  { answered, call: given, dryRun }: Given,
  rules: LegRules,
) {
  const {
    callId,
    event = "participant_joined",
    from,
    room,
    to,
    trunk,
  } = Record.map(given, Option.getOrUndefined)
  const call = makeUpCall({ callId, from, to, trunkId: trunk, room })
  if (dryRun) return yield* showBoth(target, eventBody(call, event))
  yield* ringOnce(target, call, event, rules)
  if (answered) yield* tellTheRest(target, call)
})

const ringRecorded = Effect.fnUntraced(function* (
  target: Target,
  given: Given,
  path: string,
  rules: LegRules,
) {
  if (Object.values(given.call).some(Option.isSome)) {
    const message = "--file plays what was recorded: leave away the flags that describe a call."
    return yield* new CommandFailed({ message })
  }
  const bodies = yield* readRecording(path)
  if (!given.dryRun) return yield* play(target, bodies, given.pause, rules)
  yield* Effect.forEach(bodies, (body) => showBoth(target, body), { discard: true })
})

const ring = Effect.fnUntraced(function* (given: Given) {
  if (given.answered && (given.dryRun || Option.isSome(given.file) || Option.isSome(given.call.event))) {
    const message = "--answered tells of a whole call: leave away --event, --file and --dry-run."
    return yield* new CommandFailed({ message })
  }
  const settings = yield* readSettings
  const target = yield* targetOf(given.url, settings)
  yield* Option.match(given.file, {
    onNone: () => ringMadeUp(target, given, settings),
    onSome: (path) => ringRecorded(target, given, path, settings),
  })
})

runCommand(
  Command.make("npm run ring --", flags, ring).pipe(
    Command.withDescription(
      [
        "Rings: sends a running Switchhook the webhook that LiveKit sends when a call comes in,",
        "signed with LIVEKIT_API_KEY and LIVEKIT_API_SECRET of the settings (environment, env.local, .env),",
        "and says what the answer means. Exit code 0 if every answer is 2xx, else 1.",
      ].join(" "),
    ),
    Command.withExamples([
      { command: "npm run ring", description: "One call to the service on this machine" },
      {
        command: "npm run ring -- --from +15550001111 --to +15557654321 --call-id SCL_1",
        description: "A certain call; given twice, the second is answered from the ledger",
      },
      {
        command: "npm run ring -- --call-id SCL_1 --event participant_left",
        description: "Its caller hangs up",
      },
      {
        command: "npm run ring -- --answered",
        description: "One call that is answered and ends, as the call log has it",
      },
      { command: "npm run ring -- --dry-run", description: "What would be sent, and decided" },
      {
        command: "npm run ring -- --file test/fixtures/answered-by-agent.jsonl",
        description: "A real call, from its first webhook to its last",
      },
    ]),
  ),
)
