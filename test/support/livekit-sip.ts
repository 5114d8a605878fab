// LiveKit's SIP service for the stand-in of its API: trunks and dispatch rules in memory, and what it refuses of them.

import { randomBytes } from "node:crypto"
import { type Grants, TwirpFailure, type TwirpRequest, type TwirpService, textOf } from "./livekit-api.ts"

type Texts = Readonly<Record<string, string>>

/** A trunk as LiveKit stores it. */
export interface ApiTrunk {
  readonly sipTrunkId: string
  readonly name: string
  readonly metadata: string
  readonly numbers: ReadonlyArray<string>
  readonly allowedAddresses: ReadonlyArray<string>
  readonly allowedNumbers: ReadonlyArray<string>
  readonly authUsername: string
  readonly authPassword: string
  readonly headersToAttributes: Texts
  readonly krispEnabled: boolean
}

/** How a rule names its rooms; one of the three. */
export interface ApiRuleKind {
  readonly dispatchRuleIndividual?: { readonly roomPrefix: string; readonly pin: string }
  readonly dispatchRuleDirect?: { readonly roomName: string; readonly pin: string }
  readonly dispatchRuleCallee?: {
    readonly roomPrefix: string
    readonly pin: string
    readonly randomize: boolean
  }
}

export interface ApiAgent {
  readonly agentName: string
  readonly metadata: string
}

/** A dispatch rule as LiveKit stores it. */
export interface ApiRule {
  readonly sipDispatchRuleId: string
  readonly rule: ApiRuleKind
  readonly trunkIds: ReadonlyArray<string>
  readonly hidePhoneNumber: boolean
  readonly inboundNumbers: ReadonlyArray<string>
  readonly numbers: ReadonlyArray<string>
  readonly name: string
  readonly metadata: string
  readonly attributes: Texts
  readonly roomConfig: { readonly emptyTimeout: number; readonly agents: ReadonlyArray<ApiAgent> } | null
}

const refused = (why: string) => new TwirpFailure("invalid_argument", why)

// ---- Reading requests

// The keys of a map are data.
const maps = new Set(["attributes", "headers", "headersToAttributes", "attributesToHeaders"])

const respelled = (spell: (name: string) => string) => {
  const respell = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(respell)
    if (typeof value !== "object" || value === null) return value
    return Object.fromEntries(
      Object.entries(value).map(([name, field]) => [
        spell(name),
        maps.has(toCamel(name)) ? field : respell(field),
      ]),
    )
  }
  return respell
}

const toCamel = (name: string) => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
const toSnake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
const inCamelCase = respelled(toCamel)
const inSnakeCase = respelled(toSnake)

const messageOf = (request: TwirpRequest, field: string): TwirpRequest | undefined => {
  const value = request[field]
  return typeof value === "object" && value !== null ? (value as TwirpRequest) : undefined
}

const textsOf = (request: TwirpRequest, field: string): ReadonlyArray<string> => {
  const value = request[field]
  return Array.isArray(value) ? value.map(String) : []
}

const mapOf = (request: TwirpRequest, field: string): Texts =>
  Object.fromEntries(
    Object.entries(messageOf(request, field) ?? {}).map(([key, text]) => [key, String(text)]),
  )

const toTrunk = (id: string, message: TwirpRequest): ApiTrunk => ({
  sipTrunkId: id,
  name: textOf(message, "name"),
  metadata: textOf(message, "metadata"),
  numbers: textsOf(message, "numbers"),
  allowedAddresses: textsOf(message, "allowedAddresses"),
  allowedNumbers: textsOf(message, "allowedNumbers"),
  authUsername: textOf(message, "authUsername"),
  authPassword: textOf(message, "authPassword"),
  headersToAttributes: mapOf(message, "headersToAttributes"),
  krispEnabled: message["krispEnabled"] === true,
})

const toKind = (rule: TwirpRequest): ApiRuleKind => {
  const individual = messageOf(rule, "dispatchRuleIndividual")
  const direct = messageOf(rule, "dispatchRuleDirect")
  const callee = messageOf(rule, "dispatchRuleCallee")
  const prefixAndPin = (message: TwirpRequest) => ({
    roomPrefix: textOf(message, "roomPrefix"),
    pin: textOf(message, "pin"),
  })
  if (individual) return { dispatchRuleIndividual: prefixAndPin(individual) }
  if (callee) {
    return { dispatchRuleCallee: { ...prefixAndPin(callee), randomize: callee["randomize"] === true } }
  }
  if (!direct) throw refused("missing rule")
  return { dispatchRuleDirect: { roomName: textOf(direct, "roomName"), pin: textOf(direct, "pin") } }
}

const toConfig = (config: TwirpRequest | undefined): ApiRule["roomConfig"] => {
  if (config === undefined) return null
  const agents = Array.isArray(config["agents"]) ? (config["agents"] as ReadonlyArray<TwirpRequest>) : []
  return {
    emptyTimeout: Number(config["emptyTimeout"] ?? 0),
    agents: agents.map((agent) => ({
      agentName: textOf(agent, "agentName"),
      metadata: textOf(agent, "metadata"),
    })),
  }
}

const toRule = (id: string, message: TwirpRequest): ApiRule => ({
  sipDispatchRuleId: id,
  rule: toKind(messageOf(message, "rule") ?? {}),
  trunkIds: textsOf(message, "trunkIds"),
  hidePhoneNumber: message["hidePhoneNumber"] === true,
  inboundNumbers: textsOf(message, "inboundNumbers"),
  numbers: textsOf(message, "numbers"),
  name: textOf(message, "name"),
  metadata: textOf(message, "metadata"),
  attributes: mapOf(message, "attributes"),
  roomConfig: toConfig(messageOf(message, "roomConfig")),
})

// ---- What LiveKit refuses

const normal = (number: string) =>
  /^\+?[\d\- ()]+$/.test(number) ? `+${number.replace(/[^\d]/g, "")}` : number

/** An empty list stands for one key of its own: it collides with other empty lists only. */
const keysOf = (items: ReadonlyArray<string>) => (items.length === 0 ? [""] : items.map(normal))

const shown = (id: string) => JSON.stringify(id === "" ? "<new>" : id)

// Allowed addresses do not count: two trunks that differ in them alone are a conflict nevertheless.
const refuseTrunkConflicts = (trunks: ReadonlyArray<ApiTrunk>) => {
  const taken = new Map<string, ApiTrunk>()
  for (const trunk of trunks) {
    for (const called of keysOf(trunk.numbers)) {
      for (const calling of keysOf(trunk.allowedNumbers)) {
        const key = `${called} ${calling}`
        const other = taken.get(key)
        if (other !== undefined && other !== trunk) {
          const ids = `${shown(trunk.sipTrunkId)} and ${shown(other.sipTrunkId)}`
          throw refused(`Conflicting inbound SIP Trunks: ${ids}, using the same number(s) ${called}`)
        }
        taken.set(key, trunk)
      }
    }
  }
}

const pinOf = ({ dispatchRuleCallee, dispatchRuleDirect, dispatchRuleIndividual }: ApiRuleKind) =>
  (dispatchRuleIndividual ?? dispatchRuleDirect ?? dispatchRuleCallee)?.pin ?? ""

const refuseRuleConflicts = (rules: ReadonlyArray<ApiRule>) => {
  const taken = new Map<string, ApiRule>()
  for (const rule of rules) {
    for (const trunk of rule.trunkIds.length === 0 ? [""] : rule.trunkIds) {
      for (const calling of keysOf(rule.inboundNumbers)) {
        for (const called of keysOf(rule.numbers)) {
          const key = JSON.stringify([pinOf(rule.rule), trunk, calling, called])
          const other = taken.get(key)
          if (other !== undefined && other !== rule) {
            const what = "Dispatch rule for the same trunk, inbound number, number, and PIN combination"
            throw refused(`${what} already exists in dispatch rule ${shown(other.sipDispatchRuleId)}`)
          }
          taken.set(key, rule)
        }
      }
    }
  }
}

const refuseOpenTrunk = ({ allowedAddresses, authPassword, authUsername, numbers }: ApiTrunk) => {
  if (authUsername || authPassword || allowedAddresses.length + numbers.length > 0) return
  throw refused(
    "for security, one of the fields must be set: AuthUsername+AuthPassword, AllowedAddresses or Numbers",
  )
}

const updatedList = (before: ReadonlyArray<string>, update: TwirpRequest | undefined) => {
  if (update === undefined) return before
  const [set, add, remove] = [textsOf(update, "set"), textsOf(update, "add"), textsOf(update, "remove")]
  const changes = set.length + add.length + remove.length > 0
  if ((update["clear"] === true) === changes) throw refused("unsupported list update operation")
  if ([...set, ...add].includes("")) throw refused("empty element in the list")
  if (update["clear"] === true) return []
  return set.length > 0 ? set : [...before.filter((item) => !remove.includes(item)), ...add]
}

// ---- The service

/** The SIP service with what it holds; goes into the stand-in's `services`. */
export interface SipApi {
  readonly services: Readonly<Record<string, TwirpService>>
  readonly trunks: () => ReadonlyArray<ApiTrunk>
  readonly rules: () => ReadonlyArray<ApiRule>
  /** Puts a trunk there as somebody's hand would, without checks; under its id, if it has one, in place of that. */
  readonly putTrunk: (trunk: Partial<ApiTrunk>) => ApiTrunk
  readonly putRule: (rule: Partial<ApiRule>) => ApiRule
  readonly clear: () => void
}

const madeUp = (prefix: string) => `${prefix}_${randomBytes(9).toString("base64url").replace(/[-_]/g, "x")}`

class State {
  readonly trunks = new Map<string, ApiTrunk>()
  readonly rules = new Map<string, ApiRule>()

  trunk(id: string): ApiTrunk {
    const trunk = this.trunks.get(id)
    if (trunk === undefined) throw new TwirpFailure("not_found", "requested sip trunk does not exist")
    return trunk
  }

  rule(id: string): ApiRule {
    const rule = this.rules.get(id)
    if (rule === undefined) throw new TwirpFailure("not_found", "requested sip dispatch rule does not exist")
    return rule
  }

  /** Of the stored ones all but the one it replaces are checked against it. */
  storeTrunk(trunk: ApiTrunk, prefix = ""): ApiTrunk {
    refuseOpenTrunk(trunk)
    const others = [...this.trunks.values()].filter(({ sipTrunkId }) => sipTrunkId !== trunk.sipTrunkId)
    refuseTrunkConflicts([...others, trunk])
    const stored = prefix === "" ? trunk : { ...trunk, sipTrunkId: madeUp(prefix) }
    this.trunks.set(stored.sipTrunkId, stored)
    return stored
  }

  storeRule(rule: ApiRule, prefix = ""): ApiRule {
    const id = rule.sipDispatchRuleId
    const others = [...this.rules.values()].filter(({ sipDispatchRuleId }) => sipDispatchRuleId !== id)
    refuseRuleConflicts([...others, rule])
    const stored = prefix === "" ? rule : { ...rule, sipDispatchRuleId: madeUp(prefix) }
    this.rules.set(stored.sipDispatchRuleId, stored)
    return stored
  }

  updateTrunk(id: string, request: TwirpRequest): ApiTrunk {
    const before = this.trunk(id)
    const replace = messageOf(request, "replace")
    if (replace !== undefined) return this.storeTrunk(toTrunk(id, replace))
    const update = messageOf(request, "update")
    if (update === undefined) throw refused("missing or unsupported update action")
    const text = (field: "name" | "metadata" | "authUsername" | "authPassword") =>
      update[field] === undefined ? before[field] : textOf(update, field)
    return this.storeTrunk({
      ...before,
      numbers: updatedList(before.numbers, messageOf(update, "numbers")),
      allowedAddresses: updatedList(before.allowedAddresses, messageOf(update, "allowedAddresses")),
      allowedNumbers: updatedList(before.allowedNumbers, messageOf(update, "allowedNumbers")),
      authUsername: text("authUsername"),
      authPassword: text("authPassword"),
      name: text("name"),
      metadata: text("metadata"),
    })
  }

  updateRule(id: string, request: TwirpRequest): ApiRule {
    const before = this.rule(id)
    const replace = messageOf(request, "replace")
    if (replace !== undefined) return this.storeRule(toRule(id, replace))
    const update = messageOf(request, "update")
    if (update === undefined) throw refused("missing or unsupported update action")
    const rule = messageOf(update, "rule")
    return this.storeRule({
      ...before,
      rule: rule === undefined ? before.rule : toKind(rule),
      trunkIds: updatedList(before.trunkIds, messageOf(update, "trunkIds")),
      name: update["name"] === undefined ? before.name : textOf(update, "name"),
      metadata: update["metadata"] === undefined ? before.metadata : textOf(update, "metadata"),
      attributes: { ...before.attributes, ...mapOf(update, "attributes") },
    })
  }
}

const required = (request: TwirpRequest, field: string, what: string): string => {
  const id = textOf(request, field)
  if (id === "") throw refused(`${what} is required`)
  return id
}

const sipAdmin = ({ sip }: Grants): boolean => sip["admin"] === true

const method = (work: (request: TwirpRequest) => object) => ({
  permits: sipAdmin,
  work: (request: TwirpRequest) => inSnakeCase(work(inCamelCase(request) as TwirpRequest)) as object,
})

const byId = <A>(all: ReadonlyMap<string, A>) =>
  [...all].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, item]) => item)

const createdTrunk = (state: State, request: TwirpRequest) => {
  const trunk = messageOf(request, "trunk")
  if (trunk === undefined) throw refused("missing trunk")
  if (textOf(trunk, "sipTrunkId") !== "") throw refused("trunk ID must be empty")
  return state.storeTrunk(toTrunk("", trunk), "ST")
}

const meets = (asked: ReadonlyArray<string>, there: ReadonlyArray<string>) =>
  asked.length === 0 || there.length === 0 || there.some((item) => asked.includes(item))

const trunkMethods = (state: State): TwirpService => ({
  CreateSIPInboundTrunk: method((request) => createdTrunk(state, request)),
  UpdateSIPInboundTrunk: method((request) =>
    state.updateTrunk(required(request, "sipTrunkId", "trunk ID"), request),
  ),
  ListSIPInboundTrunk: method((request) => {
    const [ids, numbers] = [textsOf(request, "trunkIds"), textsOf(request, "numbers").map(normal)]
    const items = byId(state.trunks).filter(
      (trunk) =>
        (ids.length === 0 || ids.includes(trunk.sipTrunkId)) && meets(numbers, trunk.numbers.map(normal)),
    )
    return { items }
  }),
  DeleteSIPTrunk: method((request) => {
    const id = required(request, "sipTrunkId", "trunk ID")
    state.trunks.delete(id)
    return { sipTrunkId: id }
  }),
})

const ruleMethods = (state: State): TwirpService => ({
  CreateSIPDispatchRule: method((request) =>
    state.storeRule(toRule("", messageOf(request, "dispatchRule") ?? request), "SDR"),
  ),
  UpdateSIPDispatchRule: method((request) =>
    state.updateRule(required(request, "sipDispatchRuleId", "rule id"), request),
  ),
  ListSIPDispatchRule: method((request) => {
    const [ids, trunks] = [textsOf(request, "dispatchRuleIds"), textsOf(request, "trunkIds")]
    const items = byId(state.rules).filter(
      (rule) => (ids.length === 0 || ids.includes(rule.sipDispatchRuleId)) && meets(trunks, rule.trunkIds),
    )
    return { items }
  }),
  DeleteSIPDispatchRule: method((request) => {
    const rule = state.rule(required(request, "sipDispatchRuleId", "dispatch rule ID"))
    state.rules.delete(rule.sipDispatchRuleId)
    return rule
  }),
})

const individual: ApiRuleKind = { dispatchRuleIndividual: { roomPrefix: "call-", pin: "" } }

/** Makes the service, empty: `startLiveKitApi({ key, secret, services: sip.services })`. */
export const makeSipApi = (): SipApi => {
  const state = new State()
  return {
    services: { "livekit.SIP": { ...trunkMethods(state), ...ruleMethods(state) } },
    trunks: () => byId(state.trunks),
    rules: () => byId(state.rules),
    putTrunk: (given) => {
      const id = given.sipTrunkId ?? madeUp("ST")
      const trunk = { ...(state.trunks.get(id) ?? toTrunk(id, {})), ...given }
      state.trunks.set(id, trunk)
      return trunk
    },
    putRule: (given) => {
      const id = given.sipDispatchRuleId ?? madeUp("SDR")
      const rule = { ...(state.rules.get(id) ?? toRule(id, { rule: individual })), ...given }
      state.rules.set(id, rule)
      return rule
    },
    clear: () => {
      state.trunks.clear()
      state.rules.clear()
    },
  }
}
