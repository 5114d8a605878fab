// What a carrier needs in LiveKit, against what is there: what would change, what forbids it, and who comes first.

import { Redacted } from "effect"
import type {
  Credentials,
  DispatchRule,
  InboundTrunk,
  TrunkFields,
  WantedRule,
  WantedTrunk,
} from "../livekit/sip.ts"

/** How the rooms begin whose calls we dispatch. */
export const callPrefix = "call-"

/** How the rooms begin to which LiveKit dispatches the agent itself; none that we take. */
export const failoverPrefix = "failover-"

/** Stands for the id of a trunk that is still to be made. */
export const newTrunk = "(the new trunk)"

/** What a carrier is to have. */
export interface Wanted {
  readonly carrier: string
  /** E.164. */
  readonly numbers: ReadonlyArray<string>
  /** Its trunk, where one is known. */
  readonly trunkId: string | undefined
  readonly ruleId: string | undefined
  /** Nothing said: they stay as they are. */
  readonly allowedAddresses: ReadonlyArray<string> | undefined
  readonly credentials: Credentials | undefined
  /** The trunk that was provisioned before: which numbers it has is the database's to say. */
  readonly settledTrunkId?: string | undefined
  /** Whether any other trunk, too, may lose the numbers that the carrier has not. */
  readonly mayRemoveNumbers?: boolean
}

/** What LiveKit has. */
export interface There {
  readonly trunks: ReadonlyArray<InboundTrunk>
  readonly rules: ReadonlyArray<DispatchRule>
}

/** One field that differs. A text that must not be shown is described. */
export interface Change {
  readonly field: string
  readonly removed: ReadonlyArray<string>
  readonly added: ReadonlyArray<string>
}

export type TrunkStep =
  | { readonly kind: "create"; readonly wanted: WantedTrunk }
  | {
      readonly kind: "update"
      readonly trunk: InboundTrunk
      readonly fields: TrunkFields
      readonly changes: ReadonlyArray<Change>
    }
  | { readonly kind: "keep"; readonly trunk: InboundTrunk }

export type RuleStep =
  | { readonly kind: "create"; readonly wanted: WantedRule }
  | {
      readonly kind: "replace"
      readonly rule: DispatchRule
      readonly wanted: WantedRule
      readonly changes: ReadonlyArray<Change>
    }
  | { readonly kind: "keep"; readonly rule: DispatchRule }
  /** Failover is on: the rule is not ours to change until it is off. */
  | { readonly kind: "failover"; readonly rule: DispatchRule }

/** With a refusal nothing may be changed at all. */
export interface Plan {
  readonly trunk: TrunkStep
  readonly rule: RuleStep
  readonly refusals: ReadonlyArray<string>
  readonly warnings: ReadonlyArray<string>
}

// ---- LiveKit's own order

/** As LiveKit compares phone numbers: without what formats them, and with a plus. */
export const comparable = (number: string): string =>
  /^\+?[\d\- ()]+$/.test(number) ? `+${number.replace(/\D/g, "")}` : number

const shared = (one: ReadonlyArray<string>, other: ReadonlyArray<string>): ReadonlyArray<string> => {
  const known = new Set(other.map(comparable))
  return one.filter((number) => known.has(comparable(number)))
}

const byKind = { direct: 0, individual: 1, callee: 2, unknown: Number.POSITIVE_INFINITY } as const

/** The rule with the lower one takes the call; a rule for a trunk always comes before one for all trunks. */
export const priorityOf = (rule: DispatchRule): number =>
  byKind[rule.kind] +
  (rule.hasPin ? 0 : 100) +
  (rule.inboundNumbers.length === 0 ? 1_000 : 0) +
  (rule.numbers.length === 0 ? 1_000 : 0)

const isBefore = (one: DispatchRule, other: DispatchRule): boolean => {
  const [first, second] = [priorityOf(one), priorityOf(other)]
  const room = (rule: DispatchRule) => rule.roomPrefix || rule.roomName
  return first === second ? room(one) < room(other) : first < second
}

const inOrder = (rules: ReadonlyArray<DispatchRule>) =>
  [...rules].sort((one, other) => (isBefore(one, other) ? -1 : isBefore(other, one) ? 1 : 0))

const mayTake = (rule: DispatchRule, numbers: ReadonlyArray<string>) =>
  rule.kind !== "unknown" &&
  (rule.numbers.length === 0 || numbers.length === 0 || shared(rule.numbers, numbers).length > 0)

/**
 * The rules that may take a trunk's calls, the first one first; all calls of the trunk where no numbers are given.
 * Which of them takes a certain call depends on who calls, and whether a PIN is known.
 */
export const rulesInOrder = (
  trunkId: string,
  rules: ReadonlyArray<DispatchRule>,
  numbers: ReadonlyArray<string> = [],
): ReadonlyArray<DispatchRule> => {
  const able = rules.filter((rule) => mayTake(rule, numbers))
  return [
    ...inOrder(able.filter(({ trunkIds }) => trunkIds.includes(trunkId))),
    ...inOrder(able.filter(({ trunkIds }) => trunkIds.length === 0)),
  ]
}

const isForAll = (rule: DispatchRule) =>
  !rule.hasPin && rule.inboundNumbers.length === 0 && rule.numbers.length === 0

/** The rule that sends every call of the trunk into rooms of ours, or that failover has changed. */
export const ownRule = (
  trunkId: string,
  rules: ReadonlyArray<DispatchRule>,
  ruleId?: string,
): DispatchRule | undefined => {
  const isOurs = (rule: DispatchRule) =>
    rule.kind === "individual" && [callPrefix, failoverPrefix].includes(rule.roomPrefix)
  return (
    rules.find(({ id }) => id === ruleId) ??
    rules.find((rule) => rule.trunkIds.includes(trunkId) && isForAll(rule) && isOurs(rule))
  )
}

/** The trunks that LiveKit refuses beside one with these numbers, each with the numbers they share. */
export const trunkConflicts = (
  numbers: ReadonlyArray<string>,
  allowedNumbers: ReadonlyArray<string>,
  others: ReadonlyArray<InboundTrunk>,
): ReadonlyArray<{ readonly trunk: InboundTrunk; readonly numbers: ReadonlyArray<string> }> =>
  others
    .filter((other) =>
      allowedNumbers.length === 0
        ? other.allowedNumbers.length === 0
        : shared(allowedNumbers, other.allowedNumbers).length > 0,
    )
    .map((trunk) => ({ trunk, numbers: shared(numbers, trunk.numbers) }))
    .filter((conflict) => conflict.numbers.length > 0)

/** Whether anybody's calls are taken who can reach LiveKit: no address is asked for, and no password. */
export const isOpen = (
  trunk: Pick<InboundTrunk, "allowedAddresses" | "authUsername" | "hasPassword">,
): boolean =>
  trunk.authUsername === "" &&
  !trunk.hasPassword &&
  (trunk.allowedAddresses.length === 0 || trunk.allowedAddresses.some((address) => address.endsWith("/0")))

// ---- Words for a person

/** How a trunk or a rule is called, by its id and name. */
export const titleOf = ({ id, name }: { readonly id: string; readonly name: string }): string =>
  name === "" ? id : `${id} ${JSON.stringify(name)}`

/** A few of many. */
export const fewOf = (items: ReadonlyArray<string>): string =>
  items.length <= 4 ? items.join(", ") : `${items.slice(0, 3).join(", ")} and ${items.length - 3} more`

const agentsOf = ({ agents }: DispatchRule) =>
  agents.map((name) => (name === "" ? "any agent without a name" : name))

/** What a rule does, in half a sentence. */
export const describeRule = (rule: DispatchRule): string => {
  const rooms = {
    individual: `a room ${rule.roomPrefix}… for each caller`,
    callee: `a room ${rule.roomPrefix}… for each number called`,
    direct: `the room ${rule.roomName}`,
    unknown: "something that this version does not know",
  }
  return [
    rooms[rule.kind],
    rule.hasPin ? "after a PIN" : "",
    rule.inboundNumbers.length > 0 ? `for calls from ${fewOf(rule.inboundNumbers)}` : "",
    rule.numbers.length > 0 ? `for calls to ${fewOf(rule.numbers)}` : "",
    rule.agents.length > 0 ? `LiveKit sends ${fewOf(agentsOf(rule))} there itself` : "",
  ]
    .filter((part) => part !== "")
    .join(", ")
}

// ---- Comparing

const listChange = (
  field: string,
  before: ReadonlyArray<string>,
  after: ReadonlyArray<string>,
  key: (item: string) => string = (item) => item,
): ReadonlyArray<Change> => {
  const missing = (from: ReadonlyArray<string>, into: ReadonlyArray<string>) => {
    const keys = new Set(into.map(key))
    return from.filter((item) => !keys.has(key(item)))
  }
  const [removed, added] = [missing(before, after), missing(after, before)]
  return removed.length + added.length === 0 ? [] : [{ field, removed, added }]
}

const textChange = (field: string, before: string, after: string): ReadonlyArray<Change> =>
  before === after
    ? []
    : [{ field, removed: before === "" ? [] : [before], added: after === "" ? [] : [after] }]

const credentialChanges = (trunk: InboundTrunk, wanted: Credentials | undefined): ReadonlyArray<Change> => {
  if (wanted === undefined) return []
  const same = Redacted.value(trunk.password) === Redacted.value(wanted.password)
  const password: Change = {
    field: "password",
    removed: trunk.hasPassword ? ["(another one)"] : [],
    added: ["(the one given, not shown)"],
  }
  return [...textChange("username", trunk.authUsername, wanted.username), ...(same ? [] : [password])]
}

// Somebody took the list of callers for that of the numbers called; with it no real call would come in.
const areOwnNumbers = (callers: ReadonlyArray<string>, numbers: ReadonlyArray<string>) =>
  callers.length > 0 && shared(callers, numbers).length === callers.length

const trunkStep = (wanted: Wanted, trunk: InboundTrunk | undefined): TrunkStep => {
  const { allowedAddresses, carrier, credentials, numbers } = wanted
  if (trunk === undefined) {
    const addresses = allowedAddresses ?? []
    return { kind: "create", wanted: { name: carrier, numbers, allowedAddresses: addresses, credentials } }
  }
  const callers = areOwnNumbers(trunk.allowedNumbers, numbers) ? [] : trunk.allowedNumbers
  const numberChanges = listChange("numbers", trunk.numbers, numbers, comparable)
  const addressChanges = listChange(
    "allowed addresses",
    trunk.allowedAddresses,
    allowedAddresses ?? trunk.allowedAddresses,
  )
  const callerChanges = listChange("allowed callers", trunk.allowedNumbers, callers)
  const passwordChanges = credentialChanges(trunk, credentials)
  const changes = [...numberChanges, ...addressChanges, ...callerChanges, ...passwordChanges]
  if (changes.length === 0) return { kind: "keep", trunk }
  const fields = {
    ...(numberChanges.length > 0 && { numbers }),
    ...(addressChanges.length > 0 && allowedAddresses !== undefined && { allowedAddresses }),
    ...(callerChanges.length > 0 && { allowedNumbers: callers }),
    ...(passwordChanges.length > 0 && credentials !== undefined && { credentials }),
  }
  return { kind: "update", trunk, fields, changes }
}

const newRule = (carrier: string, trunkId: string): WantedRule => ({
  name: carrier,
  trunkIds: [trunkId],
  roomPrefix: callPrefix,
  agents: [],
})

const ruleStep = (wanted: Wanted, trunkId: string, there: There): RuleStep => {
  const rule = ownRule(trunkId, there.rules, wanted.ruleId)
  if (rule === undefined) return { kind: "create", wanted: newRule(wanted.carrier, trunkId) }
  if (rule.roomPrefix === failoverPrefix && rule.trunkIds.includes(trunkId)) return { kind: "failover", rule }
  // A rule may serve other trunks as well; those that are gone are left behind.
  const living = rule.trunkIds.filter((id) => there.trunks.some((trunk) => trunk.id === id))
  const trunkIds = rule.trunkIds.includes(trunkId) ? rule.trunkIds : [...living, trunkId]
  const changes = [
    ...textChange("kind", rule.kind, "individual"),
    ...textChange("room prefix", rule.roomPrefix, callPrefix),
    ...listChange("trunks", rule.trunkIds, trunkIds),
    ...textChange("PIN", rule.hasPin ? "(one)" : "", ""),
    ...listChange("only calls from", rule.inboundNumbers, []),
    ...listChange("only calls to", rule.numbers, []),
    ...listChange("agents that LiveKit sends itself", agentsOf(rule), []),
  ]
  if (changes.length === 0) return { kind: "keep", rule }
  const name = rule.name === "" ? wanted.carrier : rule.name
  return { kind: "replace", rule, wanted: { ...newRule(name, trunkId), trunkIds }, changes }
}

// ---- What forbids it, and what to know

const named = (trunks: ReadonlyArray<InboundTrunk>, name: string, takenTrunks: ReadonlySet<string>) =>
  trunks.filter((trunk) => trunk.name === name && !takenTrunks.has(trunk.id))

const conflictText = ({
  numbers,
  trunk,
}: {
  readonly trunk: InboundTrunk
  readonly numbers: ReadonlyArray<string>
}) =>
  `The trunk ${titleOf(trunk)} has ${fewOf(numbers)}, too. LiveKit refuses two trunks with the same number, ` +
  `whatever addresses they allow, and drops calls to it. Take the number off one of them; ` +
  `if that trunk is this carrier's, say so: --trunk ${trunk.id}`

/** A trunk that somebody else made may have numbers of which the database knows nothing yet. */
const lostNumbers = (wanted: Wanted, step: TrunkStep): ReadonlyArray<string> => {
  if (step.kind !== "update" || step.fields.numbers === undefined || wanted.mayRemoveNumbers === true)
    return []
  const { id, numbers } = step.trunk
  if (id === wanted.settledTrunkId) return []
  const kept = new Set(wanted.numbers.map(comparable))
  const lost = numbers.filter((number) => !kept.has(comparable(number)))
  if (numbers.length > 0 && lost.length === 0) return []
  const what = numbers.length === 0 ? "calls to any number" : fewOf(lost)
  return [
    `The trunk ${titleOf(step.trunk)} takes ${what}, and would no longer: the carrier has other numbers. ` +
      "Add what is missing to its DIDs first, or give the rest up: --remove-numbers",
  ]
}

/** The callers that the trunk will allow. */
const allowedCallers = (step: TrunkStep) => {
  if (step.kind === "create") return []
  return (step.kind === "update" ? step.fields.allowedNumbers : undefined) ?? step.trunk.allowedNumbers
}

/** Whether anybody's calls will be taken. */
const willBeOpen = (step: TrunkStep) => {
  if (step.kind === "keep") return isOpen(step.trunk)
  const { allowedAddresses, credentials } = step.kind === "create" ? step.wanted : step.fields
  const before =
    step.kind === "create" ? { allowedAddresses: [], authUsername: "", hasPassword: false } : step.trunk
  return (
    credentials === undefined &&
    isOpen({ ...before, allowedAddresses: allowedAddresses ?? before.allowedAddresses })
  )
}

const trunkWarnings = (wanted: Wanted, step: TrunkStep, others: ReadonlyArray<InboundTrunk>) => {
  const callers = allowedCallers(step)
  const warnings: Array<string> = []
  if (willBeOpen(step)) {
    warnings.push(
      "The trunk takes calls from anybody: give the carrier's addresses (--allow) or a password " +
        "(--username and --password-env).",
    )
  }
  if (callers.length > 0) {
    warnings.push(
      `Only calls from ${fewOf(callers)} come in: the trunk's allowed numbers are those of callers.`,
    )
  }
  for (const other of others) {
    const both = shared(wanted.numbers, other.numbers)
    if (both.length === 0 || other.allowedNumbers.length === 0) continue
    warnings.push(
      `The trunk ${titleOf(other)} takes calls from ${fewOf(other.allowedNumbers)} to ${fewOf(both)}, too: ` +
        "LiveKit drops a call that two trunks would take.",
    )
  }
  return warnings
}

const isInTheWay = (rule: DispatchRule, trunkId: string) =>
  rule.trunkIds.includes(trunkId) && isForAll(rule) && rule.kind !== "unknown"

/** What the rules beside ours mean for it. */
const otherRules = (wanted: Wanted, trunkId: string, step: RuleStep, rules: ReadonlyArray<DispatchRule>) => {
  const refusals: Array<string> = []
  const warnings: Array<string> = []
  const own = step.kind === "create" ? undefined : step.rule.id
  for (const rule of rulesInOrder(trunkId, rules, wanted.numbers)) {
    if (rule.id === own || !rule.trunkIds.includes(trunkId)) continue
    if (isInTheWay(rule, trunkId)) {
      refusals.push(
        `The rule ${titleOf(rule)} takes every call of this trunk (${describeRule(rule)}), and LiveKit refuses ` +
          "a second one like it. Delete it, or take the trunk off it.",
      )
    } else if (priorityOf(rule) < ourPriority && rule.agents.length > 0) {
      refusals.push(
        `The rule ${titleOf(rule)} takes calls before ours and dispatches agents itself (${describeRule(rule)}): ` +
          "a second dispatcher beside this one. Delete it, or take the agents or the trunk off it.",
      )
    } else if (priorityOf(rule) < ourPriority) {
      warnings.push(`The rule ${titleOf(rule)} takes calls before ours: ${describeRule(rule)}.`)
    }
  }
  return { refusals, warnings }
}

// Individual, without a PIN, for all callers and all numbers.
const ourPriority = byKind.individual + 100 + 1_000 + 1_000

const ruleWarnings = (step: RuleStep, trunkId: string) => {
  const warnings: Array<string> = []
  if (step.kind === "create") return warnings
  if (step.kind === "failover") {
    warnings.push(
      `Failover is on: the rule ${titleOf(step.rule)} stays as it is until it is switched off (npm run failover).`,
    )
  }
  if (step.kind === "replace" && step.rule.agents.length > 0) {
    warnings.push(
      `The rule ${titleOf(step.rule)} sends ${fewOf(agentsOf(step.rule))} into the calls itself: with our ` +
        "dispatch two agents would join. They are taken off it.",
    )
  }
  const others = step.rule.trunkIds.filter((id) => id !== trunkId)
  if (others.length > 0)
    warnings.push(`The rule ${titleOf(step.rule)} serves other trunks, too: ${fewOf(others)}.`)
  return warnings
}

const whichTrunk = (wanted: Wanted, there: There, takenTrunks: ReadonlySet<string>) => {
  const known = there.trunks.find(({ id }) => id === wanted.trunkId)
  if (known !== undefined) return { trunk: known, refusals: [], warnings: [] }
  const gone =
    wanted.trunkId === undefined
      ? []
      : [
          `The trunk ${wanted.trunkId}, which is stored for this carrier, is not in LiveKit: ` +
            "is LIVEKIT_URL the right one? Another trunk takes its place.",
        ]
  const [byName, ...more] = named(there.trunks, wanted.carrier, takenTrunks)
  if (byName === undefined) return { trunk: undefined, refusals: [], warnings: gone }
  if (more.length === 0) {
    const found = `The trunk ${titleOf(byName)} has the carrier's name, and is taken for its trunk.`
    return { trunk: byName, refusals: [], warnings: [...gone, found] }
  }
  const ids = [byName, ...more].map(({ id }) => id)
  const several = `Several trunks have the carrier's name: ${fewOf(ids)}. Say which one it is: --trunk ${ids[0]}`
  return { trunk: undefined, refusals: [several], warnings: gone }
}

/**
 * What would change for a carrier, in whole: nothing where it has all it needs. `takenTrunks` are those of other
 * carriers, whatever their names are.
 *
 * @example
 * planFor(wanted, { trunks: [], rules: [] }).trunk.kind // "create"
 */
export const planFor = (wanted: Wanted, there: There, takenTrunks: ReadonlySet<string> = new Set()): Plan => {
  const found = whichTrunk(wanted, there, takenTrunks)
  const id = found.trunk?.id ?? newTrunk
  const trunk = trunkStep(wanted, found.trunk)
  const others = there.trunks.filter((other) => other.id !== id)
  const rule = ruleStep(wanted, id, there)
  const beside = otherRules(wanted, id, rule, there.rules)
  const none =
    wanted.numbers.length > 0
      ? []
      : [
          "The carrier has no numbers: a trunk without numbers would take calls to any number. Add its DIDs first.",
        ]
  return {
    trunk,
    rule,
    refusals: [
      ...none,
      ...found.refusals,
      ...lostNumbers(wanted, trunk),
      ...trunkConflicts(wanted.numbers, allowedCallers(trunk), others).map(conflictText),
      ...beside.refusals,
    ],
    warnings: [
      ...found.warnings,
      ...trunkWarnings(wanted, trunk, others),
      ...ruleWarnings(rule, id),
      ...beside.warnings,
    ],
  }
}
