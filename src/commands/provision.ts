// `npm run provision`: makes in LiveKit what a carrier needs, a trunk and a rule, and changes only what differs.

import { Config, Console, Effect, Option, Redacted } from "effect"
import { Command, Flag } from "effect/cli"
import ipaddr from "ipaddr.js"
import {
  type Change,
  callPrefix,
  newTrunk,
  type Plan,
  planFor,
  type RuleStep,
  type There,
  type TrunkStep,
  titleOf,
  type Wanted,
} from "../carriers/provisioning.ts"
import { type StoredCarrier, storeIds } from "../carriers/stored-trunks.ts"
import { readSettings, type SettingsShape } from "../config.ts"
import type { CommandEngine } from "../database/engine.ts"
import { type Credentials, LiveKitSip } from "../livekit/sip.ts"
import {
  carrierNamed,
  listAll,
  openDatabase,
  orDatabaseFailed,
  orLiveKitFailed,
  sipOf,
  withinMs,
} from "./carrier-trunks.ts"
import { bold, dim, green, red, yellow } from "./colours.ts"
import { CommandFailed, runCommand } from "./run-command.ts"

const text = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description))

const flags = {
  carrier: text("carrier", "name", "The carrier, as the database has it"),
  allow: text(
    "allow",
    "network",
    "An address or network its calls come from; may be given several times",
  ).pipe(
    Flag.filter(
      (network) => ipaddr.isValid(network) || ipaddr.isValidCIDR(network),
      (network) => `an address or network like 203.0.113.0/24, got ${JSON.stringify(network)}`,
    ),
    Flag.atLeast(0),
  ),
  username: text("username", "name", "The user its calls authenticate as").pipe(Flag.optional),
  passwordEnv: text("password-env", "variable", "The environment variable that has the password").pipe(
    Flag.optional,
  ),
  trunk: text("trunk", "id", "The trunk in LiveKit that is this carrier's, if it has one already").pipe(
    Flag.optional,
  ),
  removeNumbers: Flag.Boolean("remove-numbers").pipe(
    Flag.withDescription("Takes numbers off a trunk made by hand that are none of the carrier's DIDs"),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
  dryRun: Flag.Boolean("dry-run").pipe(
    Flag.withDescription("Shows what would change and changes nothing"),
    Flag.withDefault(false),
    Flag.withoutNegation,
  ),
}

type Given = Command.Command.Config.Infer<typeof flags>

// ---- What is wanted

const passwordIn = (variable: string): Effect.Effect<Redacted.Redacted, CommandFailed> =>
  Config.Redacted(variable).pipe(
    Effect.filterOrFail((password) => Redacted.value(password) !== ""),
    Effect.mapError(
      () => new CommandFailed({ message: `--password-env: there is no ${variable} in the environment.` }),
    ),
  )

const credentialsOf = Effect.fnUntraced(function* ({
  passwordEnv,
  username,
}: Given): Effect.fn.Return<Credentials | undefined, CommandFailed> {
  if (Option.isNone(username) && Option.isNone(passwordEnv)) return undefined
  if (Option.isNone(username) || Option.isNone(passwordEnv)) {
    return yield* new CommandFailed({ message: "--username and --password-env go together." })
  }
  return { username: username.value, password: yield* passwordIn(passwordEnv.value) }
})

const trunkOf = (given: Given, carrier: StoredCarrier, all: ReadonlyArray<StoredCarrier>) => {
  const trunkId = Option.getOrElse(given.trunk, () => carrier.trunkId)
  const other = all.find(({ id, trunkId: theirs }) => id !== carrier.id && theirs === trunkId)
  if (trunkId === undefined || other === undefined) return Effect.succeed(trunkId)
  const message = `The trunk ${trunkId} is the carrier ${JSON.stringify(other.name)}'s.`
  return Effect.fail(new CommandFailed({ message }))
}

const trunkGiven = ({ trunk }: Given, { trunks }: There) => {
  const missing = Option.filter(trunk, (id) => !trunks.some((there) => there.id === id))
  return Option.match(missing, {
    onNone: () => Effect.void,
    onSome: (id) =>
      Effect.fail(new CommandFailed({ message: `--trunk: LiveKit has no inbound trunk ${id}.` })),
  })
}

const wantedOf = Effect.fnUntraced(function* (
  given: Given,
  carrier: StoredCarrier,
  all: ReadonlyArray<StoredCarrier>,
): Effect.fn.Return<Wanted, CommandFailed> {
  if (carrier.archived) {
    return yield* new CommandFailed({ message: `The carrier ${JSON.stringify(carrier.name)} is archived.` })
  }
  return {
    carrier: carrier.name,
    numbers: carrier.numbers,
    trunkId: yield* trunkOf(given, carrier, all),
    ruleId: carrier.ruleId,
    allowedAddresses: given.allow.length === 0 ? undefined : given.allow,
    credentials: yield* credentialsOf(given),
    // A trunk's id can be stored by hand; the rule's only by this command.
    settledTrunkId: carrier.ruleId === undefined ? undefined : carrier.trunkId,
    mayRemoveNumbers: given.removeNumbers,
  }
})

// ---- What is shown

// A carrier may have thousands of numbers, and nobody reads them all.
const mostShown = 20

const lines = (field: string, items: ReadonlyArray<string>) => {
  const more = items.length - mostShown
  const shown = items.slice(0, mostShown).map((item) => `${field}: ${item}`)
  return more > 0 ? [...shown, `${field}: … and ${more} more`] : shown
}

const showChanges = (changes: ReadonlyArray<Change>) =>
  Effect.forEach(
    changes.flatMap(({ added, field, removed }) => [
      ...lines(field, removed).map((line) => red(`  - ${line}`)),
      ...lines(field, added).map((line) => green(`  + ${line}`)),
    ]),
    (line) => Console.log(line),
    { discard: true },
  )

const added = (field: string, items: ReadonlyArray<string>): Change => ({ field, removed: [], added: items })

const showTrunk = (step: TrunkStep) => {
  if (step.kind === "keep") return Console.log(`The trunk ${titleOf(step.trunk)} is as it should be.`)
  if (step.kind === "update") {
    return Effect.andThen(
      Console.log(`${bold("To change")}: the trunk ${titleOf(step.trunk)}`),
      showChanges(step.changes),
    )
  }
  const { allowedAddresses, credentials, name, numbers } = step.wanted
  return Effect.andThen(
    Console.log(`${bold("To make")}: an inbound trunk`),
    showChanges([
      added("name", [name]),
      added("numbers", numbers),
      added("allowed addresses", allowedAddresses),
      added("username", credentials === undefined ? [] : [credentials.username]),
      added("password", credentials === undefined ? [] : ["(the one given, not shown)"]),
    ]),
  )
}

const showRule = (step: RuleStep) => {
  if (step.kind === "failover") return Effect.void
  if (step.kind === "keep") return Console.log(`The rule ${titleOf(step.rule)} is as it should be.`)
  if (step.kind === "replace") {
    return Effect.andThen(
      Console.log(`${bold("To change")}: the rule ${titleOf(step.rule)}`),
      showChanges(step.changes),
    )
  }
  return Effect.andThen(
    Console.log(`${bold("To make")}: a dispatch rule`),
    showChanges([
      added("name", [step.wanted.name]),
      added("kind", ["individual"]),
      added("room prefix", [step.wanted.roomPrefix]),
      added("trunks", step.wanted.trunkIds),
    ]),
  )
}

const show = Effect.fnUntraced(function* ({ refusals, rule, trunk, warnings }: Plan) {
  yield* showTrunk(trunk)
  yield* showRule(rule)
  for (const warning of warnings) yield* Console.log(`${yellow("Mind")}: ${warning}`)
  for (const refusal of refusals) yield* Console.log(`${red("Refused")}: ${refusal}`)
})

// ---- What is done

const applyTrunk = Effect.fnUntraced(function* (step: TrunkStep) {
  const sip = yield* LiveKitSip
  switch (step.kind) {
    case "keep":
      return step.trunk
    case "update": {
      const trunk = yield* orLiveKitFailed(sip.updateInboundTrunk(step.trunk.id, step.fields, withinMs))
      yield* Console.log(`Changed the trunk ${titleOf(trunk)}.`)
      return trunk
    }
    case "create": {
      const trunk = yield* orLiveKitFailed(sip.createInboundTrunk(step.wanted, withinMs))
      yield* Console.log(`Made the trunk ${titleOf(trunk)}.`)
      return trunk
    }
  }
})

const applyRule = Effect.fnUntraced(function* (step: RuleStep, trunkId: string) {
  const sip = yield* LiveKitSip
  if (step.kind === "keep" || step.kind === "failover") return step.rule
  const trunkIds = step.wanted.trunkIds.map((id) => (id === newTrunk ? trunkId : id))
  const wanted = { ...step.wanted, trunkIds }
  if (step.kind === "replace") {
    const rule = yield* orLiveKitFailed(sip.replaceDispatchRule(step.rule.id, wanted, withinMs))
    yield* Console.log(`Changed the rule ${titleOf(rule)}.`)
    return rule
  }
  const rule = yield* orLiveKitFailed(sip.createDispatchRule(wanted, withinMs))
  yield* Console.log(`Made the rule ${titleOf(rule)}.`)
  return rule
})

// Each id is stored as soon as there is one: what comes after it may fail.
const apply = Effect.fnUntraced(function* (engine: CommandEngine, carrier: StoredCarrier, plan: Plan) {
  const trunk = yield* applyTrunk(plan.trunk)
  if (trunk.id !== carrier.trunkId) yield* storeIds(engine, carrier.id, { trunkId: trunk.id })
  const rule = yield* applyRule(plan.rule, trunk.id)
  if (rule.id !== carrier.ruleId) yield* storeIds(engine, carrier.id, { trunkId: trunk.id, ruleId: rule.id })
})

const changesNothing = ({ rule, trunk }: Plan) =>
  trunk.kind === "keep" && (rule.kind === "keep" || rule.kind === "failover")

const carryOut = Effect.fnUntraced(function* (
  engine: CommandEngine,
  carrier: StoredCarrier,
  plan: Plan,
  dryRun: boolean,
) {
  yield* show(plan)
  if (plan.refusals.length > 0) {
    yield* Console.log("Nothing was changed.")
    return yield* new CommandFailed({ message: "" })
  }
  if (dryRun) return yield* Console.log(dim("Nothing was changed (--dry-run)."))
  yield* apply(engine, carrier, plan)
  const outcome = changesNothing(plan)
    ? "there was nothing to change."
    : `its calls go to rooms ${callPrefix}…`
  yield* Console.log(green(`The carrier ${JSON.stringify(carrier.name)} is provisioned: ${outcome}`))
})

const provisionBy = Effect.fnUntraced(function* (settings: SettingsShape, given: Given) {
  const engine = yield* openDatabase(settings)
  const { all, carrier } = yield* carrierNamed(engine, given.carrier)
  const wanted = yield* wantedOf(given, carrier, all)
  const others = all.filter(({ id }) => id !== carrier.id)
  const takenTrunks = new Set(others.flatMap(({ trunkId }) => trunkId ?? []))
  const there: There = yield* listAll
  yield* trunkGiven(given, there)
  yield* carryOut(engine, carrier, planFor(wanted, there, takenTrunks), given.dryRun)
})

const provision = (given: Given) =>
  Effect.flatMap(readSettings, (settings) =>
    provisionBy(settings, given).pipe(Effect.scoped, orDatabaseFailed(), Effect.provide(sipOf(settings))),
  )

runCommand(
  Command.make("npm run provision --", flags, provision).pipe(
    Command.withDescription(
      [
        "Makes in LiveKit what a carrier of the database needs: an inbound trunk with its DIDs, and a dispatch rule",
        `that puts each caller into a room ${callPrefix}…. Shows what differs and changes only that, so it may be`,
        "run again at any time. What is not given (addresses, password) stays as it is.",
        "Refuses to go on where another trunk or rule would take the calls, and says which.",
        "Exit code 0 if all is as it should be (or would be, with --dry-run), else 1.",
      ].join(" "),
    ),
    Command.withExamples([
      {
        command: "npm run provision -- --carrier Acme --allow 203.0.113.0/24 --dry-run",
        description: "What would change",
      },
      {
        command: "npm run provision -- --carrier Acme --username acme --password-env ACME_PASSWORD",
        description: "A carrier that authenticates its calls",
      },
      {
        command: "npm run provision -- --carrier Acme --trunk ST_abc",
        description: "A carrier whose trunk was made by hand",
      },
    ]),
  ),
)
