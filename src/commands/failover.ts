// `npm run failover`: points a trunk at a LiveKit agent while Switchhook is out, and back.

import { Console, Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import {
  callPrefix,
  describeRule,
  failoverPrefix,
  fewOf,
  ownRule,
  priorityOf,
  rulesInOrder,
  type There,
  titleOf,
} from "../carriers/provisioning.ts"
import { readSettings, type SettingsShape } from "../config.ts"
import { type DispatchRule, type InboundTrunk, LiveKitSip, type WantedRule } from "../livekit/sip.ts"
import {
  carrierNamed,
  listAll,
  openDatabase,
  orDatabaseFailed,
  orLiveKitFailed,
  sipOf,
  withinMs,
} from "./carrier-trunks.ts"
import { dim, green, red, yellow } from "./colours.ts"
import { CommandFailed, runCommand } from "./run-command.ts"

const flags = {
  action: Argument.Literals("on|off|status", ["on", "off", "status"]).pipe(
    Argument.withDescription("What to do, or only what each trunk's rule does now"),
  ),
  carrier: Flag.String("carrier").pipe(
    Flag.withMetavar("name"),
    Flag.withDescription("The carrier whose trunk it is; asks the database"),
    Flag.optional,
  ),
  trunk: Flag.String("trunk").pipe(
    Flag.withMetavar("id"),
    Flag.withDescription("A trunk in LiveKit, without the database; may be given several times"),
    Flag.atLeast(0),
  ),
}

type Given = Command.Command.Config.Infer<typeof flags>

/** A trunk to act on; the rule where the database knows it. */
interface Target {
  readonly trunkId: string
  readonly ruleId: string | undefined
}

// ---- Which trunks

const ofCarrier = (settings: SettingsShape, name: string) =>
  Effect.gen(function* () {
    const engine = yield* openDatabase(settings)
    const { carrier } = yield* carrierNamed(engine, name)
    if (carrier.trunkId !== undefined) return [{ trunkId: carrier.trunkId, ruleId: carrier.ruleId }]
    const quoted = JSON.stringify(name)
    const message = `The carrier ${quoted} has no trunk yet: npm run provision -- --carrier ${quoted}`
    return yield* new CommandFailed({ message })
  }).pipe(Effect.scoped, orDatabaseFailed("Give the trunk itself, without the database: --trunk ST_…"))

const targetsOf = (
  given: Given,
  settings: SettingsShape,
): Effect.Effect<ReadonlyArray<Target>, CommandFailed> => {
  if (Option.isSome(given.carrier)) {
    return given.trunk.length > 0
      ? Effect.fail(
          new CommandFailed({ message: "--carrier or --trunk: one of them says which trunk it is." }),
        )
      : ofCarrier(settings, given.carrier.value)
  }
  const ids = given.trunk.length > 0 ? given.trunk : settings.inboundTrunks
  if (ids.length > 0) {
    return Effect.succeed([...new Set(ids)].map((trunkId) => ({ trunkId, ruleId: undefined })))
  }
  const message = "Which trunk? --carrier <name>, --trunk <id>, or LIVEKIT_INBOUND_TRUNK_ID in the settings."
  return Effect.fail(new CommandFailed({ message }))
}

// ---- What a rule does now

/** Who answers a trunk's calls by its rule. */
type Standing = "switchhook" | "failover" | "other"

const standingOf = ({ agents, kind, roomPrefix }: DispatchRule): Standing => {
  if (kind === "individual" && roomPrefix === callPrefix && agents.length === 0) return "switchhook"
  return kind === "individual" && roomPrefix === failoverPrefix && agents.length > 0 ? "failover" : "other"
}

const showStanding = (trunk: InboundTrunk, rule: DispatchRule) => {
  const start = `${titleOf(trunk)}, rule ${titleOf(rule)}: `
  switch (standingOf(rule)) {
    case "switchhook":
      return Console.log(
        `${start}${green("failover is off")}, calls go to Switchhook (rooms ${callPrefix}…).`,
      )
    case "failover":
      return Console.log(
        `${start}${yellow("failover is on")}, LiveKit sends ${fewOf(rule.agents)} itself ` +
          `(rooms ${failoverPrefix}…).`,
      )
    case "other":
      return Console.log(`${start}${red("neither Switchhook's nor failover's")}: ${describeRule(rule)}.`)
  }
}

const showOthers = Effect.fnUntraced(function* (trunkId: string, rule: DispatchRule, { rules }: There) {
  for (const other of rulesInOrder(trunkId, rules)) {
    if (other.id === rule.id || !other.trunkIds.includes(trunkId)) continue
    if (priorityOf(other) < priorityOf(rule))
      yield* Console.log(`  ${yellow("Mind")}: ${titleOf(other)} takes calls first: ${describeRule(other)}.`)
  }
  const more = rule.trunkIds.filter((id) => id !== trunkId)
  if (more.length > 0)
    yield* Console.log(`  ${yellow("Mind")}: the rule serves other trunks, too: ${fewOf(more)}.`)
})

const noOwnRule = (trunk: InboundTrunk, first: DispatchRule | undefined) => {
  const now =
    first === undefined
      ? "No rule takes its calls"
      : `Its calls go to ${titleOf(first)}, ${describeRule(first)}`
  const rooms = `${callPrefix}… or ${failoverPrefix}…`
  return `The trunk ${titleOf(trunk)} has no rule of its own for rooms ${rooms}. ${now}. npm run provision makes one.`
}

/** What there is of a trunk, or why nothing can be done with it. */
const findRule = ({ ruleId, trunkId }: Target, there: There) => {
  const trunk = there.trunks.find(({ id }) => id === trunkId)
  if (trunk === undefined) return `The trunk ${trunkId} is not in LiveKit.`
  const stored = ownRule(trunkId, there.rules, ruleId)
  const rule = stored?.trunkIds.includes(trunkId) === true ? stored : ownRule(trunkId, there.rules)
  return rule === undefined ? noOwnRule(trunk, rulesInOrder(trunkId, there.rules)[0]) : { trunk, rule }
}

// ---- Switching

const wantedFor = (action: "on" | "off", { name, trunkIds }: DispatchRule, agent: string): WantedRule => ({
  name,
  trunkIds,
  roomPrefix: action === "on" ? failoverPrefix : callPrefix,
  agents: action === "on" ? [agent] : [],
})

const isAlready = (rule: DispatchRule, wanted: WantedRule) =>
  rule.kind === "individual" &&
  !rule.hasPin &&
  rule.inboundNumbers.length === 0 &&
  rule.numbers.length === 0 &&
  rule.roomPrefix === wanted.roomPrefix &&
  rule.agents.join() === wanted.agents.join()

const switchOne = Effect.fnUntraced(function* (target: Target, action: "on" | "off", agent: string) {
  const sip = yield* LiveKitSip
  // Listed anew each time: a rule may serve several of the trunks.
  const there = yield* listAll
  const found = findRule(target, there)
  if (typeof found === "string") return yield* new CommandFailed({ message: found })
  const { rule, trunk } = found
  const wanted = wantedFor(action, rule, agent)
  const already = isAlready(rule, wanted)
  const now = already ? rule : yield* orLiveKitFailed(sip.replaceDispatchRule(rule.id, wanted, withinMs))
  yield* showStanding(trunk, now)
  yield* showOthers(trunk.id, now, there)
  yield* Console.log(
    dim(already ? "  It was so already: nothing was changed." : `  Before: ${describeRule(rule)}.`),
  )
})

const showOne = Effect.fnUntraced(function* (target: Target) {
  const there = yield* listAll
  const found = findRule(target, there)
  if (typeof found === "string") return yield* Console.log(yellow(found))
  yield* showStanding(found.trunk, found.rule)
  yield* showOthers(found.trunk.id, found.rule, there)
})

const actOn = (target: Target, action: Given["action"], agent: string) =>
  action === "status" ? showOne(target) : switchOne(target, action, agent)

const failover = Effect.fnUntraced(function* (given: Given) {
  const settings = yield* readSettings
  const agent = Option.getOrElse(settings.fallbackAgent, () => "")
  if (given.action === "on" && agent === "") {
    const message = "FALLBACK_AGENT is not set: it names the LiveKit agent that answers meanwhile."
    return yield* new CommandFailed({ message })
  }
  const targets = yield* targetsOf(given, settings)
  // One trunk that cannot be switched must not keep the others from it.
  const failed = yield* Effect.forEach(targets, (target) =>
    actOn(target, given.action, agent).pipe(
      Effect.as(false),
      Effect.catchTag("CommandFailed", ({ message }) =>
        Effect.as(Console.error(`${target.trunkId}: ${red(message)}`), true),
      ),
    ),
  ).pipe(Effect.provide(sipOf(settings)))
  if (failed.includes(true)) return yield* new CommandFailed({ message: "" })
})

runCommand(
  Command.make("npm run failover --", flags, failover).pipe(
    Command.withDescription(
      [
        "While Switchhook is out, lets LiveKit itself send FALLBACK_AGENT to a trunk's callers: changes the trunk's",
        `dispatch rule to rooms ${failoverPrefix}…, which Switchhook lets pass by, and back to rooms ${callPrefix}….`,
        "The ids stay. Needs no Switchhook, and with --trunk or LIVEKIT_INBOUND_TRUNK_ID no database.",
        "Calls that came in before the switch stay where they are.",
        "Exit code 0 if every trunk is as asked, else 1.",
      ].join(" "),
    ),
    Command.withExamples([
      { command: "npm run failover -- status", description: "The trunks of LIVEKIT_INBOUND_TRUNK_ID" },
      { command: "npm run failover -- on --carrier Acme", description: "Acme's calls go to FALLBACK_AGENT" },
      {
        command: "npm run failover -- off --trunk ST_abc",
        description: "That trunk's calls come here again",
      },
    ]),
  ),
)
