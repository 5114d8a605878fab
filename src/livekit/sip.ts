// LiveKit's SIP service: the inbound trunks, and the rules that say which room a call goes to.

import { Context, Effect, Layer, Option, Redacted } from "effect"
import {
  RoomAgentDispatch,
  RoomConfiguration,
  RoomServiceClient,
  SIPDispatchRule,
  SIPDispatchRuleIndividual,
  type SIPDispatchRuleInfo,
  type SIPInboundTrunkInfo,
  SipClient,
  type SipInboundTrunkUpdateOptions,
} from "livekit-server-sdk"
import type { Settings } from "../config.ts"
import {
  type Caller,
  configuredCaller,
  type LiveKitError,
  LiveKitNotReached,
  LiveKitRefused,
  type Request,
  within,
} from "./client.ts"

export {
  type LiveKitError,
  LiveKitNotReached,
  LiveKitRefused,
  LiveKitSilent,
  whatWentWrong,
} from "./client.ts"

/** Where calls come in. What a list leaves empty, it does not restrict. */
export interface InboundTrunk {
  readonly id: string
  readonly name: string
  /** Those that are called. */
  readonly numbers: ReadonlyArray<string>
  readonly allowedAddresses: ReadonlyArray<string>
  /** Those that call. */
  readonly allowedNumbers: ReadonlyArray<string>
  readonly authUsername: string
  readonly hasPassword: boolean
  /** Empty where there is none, or LiveKit does not show it. */
  readonly password: Redacted.Redacted
}

/** What LiveKit does with a call of certain trunks, or with those of any where none is named. */
export interface DispatchRule {
  readonly id: string
  readonly name: string
  readonly trunkIds: ReadonlyArray<string>
  readonly kind: "individual" | "direct" | "callee" | "unknown"
  readonly roomPrefix: string
  readonly roomName: string
  readonly hasPin: boolean
  readonly hidePhoneNumber: boolean
  /** Those that call; of any number where it is empty. */
  readonly inboundNumbers: ReadonlyArray<string>
  /** Those that are called; any where it is empty. */
  readonly numbers: ReadonlyArray<string>
  /** The agents it sends into the room itself, by the names in its `roomConfig.agents`. */
  readonly agents: ReadonlyArray<string>
}

/** What a digest asks for. */
export interface Credentials {
  readonly username: string
  readonly password: Redacted.Redacted
}

export interface WantedTrunk {
  readonly name: string
  readonly numbers: ReadonlyArray<string>
  readonly allowedAddresses: ReadonlyArray<string>
  readonly credentials: Credentials | undefined
}

/** What changes of a trunk; what is not named stays as it is. */
export interface TrunkFields {
  readonly numbers?: ReadonlyArray<string>
  readonly allowedAddresses?: ReadonlyArray<string>
  readonly allowedNumbers?: ReadonlyArray<string>
  readonly credentials?: Credentials
}

/** An individual rule, without PIN and for whoever calls: each caller gets a room with that prefix. */
export interface WantedRule {
  readonly name: string
  readonly trunkIds: ReadonlyArray<string>
  readonly roomPrefix: string
  readonly agents: ReadonlyArray<string>
}

interface LiveKitSipShape {
  /** Whether there is a LiveKit to ask; without one every call fails with `LiveKitNotReached`. */
  readonly configured: boolean
  readonly inboundTrunks: (withinMs: number) => Effect.Effect<ReadonlyArray<InboundTrunk>, LiveKitError>
  readonly dispatchRules: (withinMs: number) => Effect.Effect<ReadonlyArray<DispatchRule>, LiveKitError>
  /** Not idempotent: list and compare first. */
  readonly createInboundTrunk: (
    wanted: WantedTrunk,
    withinMs: number,
  ) => Effect.Effect<InboundTrunk, LiveKitError>
  readonly updateInboundTrunk: (
    id: string,
    fields: TrunkFields,
    withinMs: number,
  ) => Effect.Effect<InboundTrunk, LiveKitError>
  /** Not idempotent: list and compare first. */
  readonly createDispatchRule: (
    wanted: WantedRule,
    withinMs: number,
  ) => Effect.Effect<DispatchRule, LiveKitError>
  /**
   * Makes the rule what is wanted, under its id. Its metadata and attributes, whether it hides numbers, and what
   * its rooms have beside agents stay; LiveKit has no way to change the rest alone, so it is read first.
   * Refused as `not_found` where there is no such rule.
   */
  readonly replaceDispatchRule: (
    id: string,
    wanted: WantedRule,
    withinMs: number,
  ) => Effect.Effect<DispatchRule, LiveKitError>
  /**
   * What LiveKit's clock says, by the `Date` of an answer. Succeeds with any answer, also with the 401 that a clock
   * too far off makes of every request: `accepted` says whether the key was.
   */
  readonly serverTime: (
    withinMs: number,
  ) => Effect.Effect<{ readonly date: number | undefined; readonly accepted: boolean }, LiveKitError>
}

const toTrunk = (info: SIPInboundTrunkInfo): InboundTrunk => ({
  id: info.sipTrunkId,
  name: info.name,
  numbers: info.numbers,
  allowedAddresses: info.allowedAddresses,
  allowedNumbers: info.allowedNumbers,
  authUsername: info.authUsername,
  hasPassword: info.authPassword !== "",
  password: Redacted.make(info.authPassword),
})

const kinds = {
  dispatchRuleIndividual: "individual",
  dispatchRuleDirect: "direct",
  dispatchRuleCallee: "callee",
} as const

const toRule = (info: SIPDispatchRuleInfo): DispatchRule => {
  const rule = info.rule?.rule
  return {
    id: info.sipDispatchRuleId,
    name: info.name,
    trunkIds: info.trunkIds,
    kind: rule?.case === undefined ? "unknown" : kinds[rule.case],
    roomPrefix: rule?.value !== undefined && "roomPrefix" in rule.value ? rule.value.roomPrefix : "",
    roomName: rule?.case === "dispatchRuleDirect" ? rule.value.roomName : "",
    hasPin: (rule?.value?.pin ?? "") !== "",
    hidePhoneNumber: info.hidePhoneNumber,
    inboundNumbers: info.inboundNumbers,
    numbers: info.numbers,
    agents: (info.roomConfig?.agents ?? []).map(({ agentName }) => agentName),
  }
}

type ListUpdate = NonNullable<SipInboundTrunkUpdateOptions["numbers"]>

// The SDK does not export this message, but makes it of a plain object. An empty list is not set, but cleared.
const listUpdate = (items: ReadonlyArray<string> | undefined) =>
  items && { items: { set: [...items], clear: items.length === 0 } as ListUpdate }

const toUpdate = (fields: TrunkFields): SipInboundTrunkUpdateOptions => {
  const numbers = listUpdate(fields.numbers)
  const allowedAddresses = listUpdate(fields.allowedAddresses)
  const allowedNumbers = listUpdate(fields.allowedNumbers)
  return {
    ...(numbers && { numbers: numbers.items }),
    ...(allowedAddresses && { allowedAddresses: allowedAddresses.items }),
    ...(allowedNumbers && { allowedNumbers: allowedNumbers.items }),
    ...(fields.credentials && {
      authUsername: fields.credentials.username,
      authPassword: Redacted.value(fields.credentials.password),
    }),
  }
}

const withAgents = (agents: ReadonlyArray<string>, config?: RoomConfiguration) => {
  if (config === undefined && agents.length === 0) return undefined
  const changed = config?.clone() ?? new RoomConfiguration()
  const known = new Map(changed.agents.map((agent) => [agent.agentName, agent]))
  changed.agents = agents.map((agentName) => known.get(agentName) ?? new RoomAgentDispatch({ agentName }))
  return changed
}

/** The rule as it is to be, with what it has beside what is wanted. */
const changedTo = (wanted: WantedRule, info: SIPDispatchRuleInfo): SIPDispatchRuleInfo => {
  const changed = info.clone()
  changed.name = wanted.name
  changed.trunkIds = [...wanted.trunkIds]
  changed.inboundNumbers = []
  changed.numbers = []
  changed.rule = new SIPDispatchRule({
    rule: {
      case: "dispatchRuleIndividual",
      value: new SIPDispatchRuleIndividual({ roomPrefix: wanted.roomPrefix }),
    },
  })
  const roomConfig = withAgents(wanted.agents, info.roomConfig)
  if (roomConfig !== undefined) changed.roomConfig = roomConfig
  return changed
}

const nothing = new LiveKitNotReached({ reason: "not configured" })

const notConfigured: LiveKitSipShape = {
  configured: false,
  inboundTrunks: () => Effect.fail(nothing),
  dispatchRules: () => Effect.fail(nothing),
  createInboundTrunk: () => Effect.fail(nothing),
  updateInboundTrunk: () => Effect.fail(nothing),
  createDispatchRule: () => Effect.fail(nothing),
  replaceDispatchRule: () => Effect.fail(nothing),
  serverTime: () => Effect.fail(nothing),
}

const createTrunk = (sip: SipClient, { allowedAddresses, credentials, name, numbers }: WantedTrunk) =>
  sip.createSipInboundTrunk(name, [...numbers], {
    allowedAddresses: [...allowedAddresses],
    ...(credentials && {
      authUsername: credentials.username,
      authPassword: Redacted.value(credentials.password),
    }),
  })

const createRule = (sip: SipClient, { agents, name, roomPrefix, trunkIds }: WantedRule) => {
  const roomConfig = withAgents(agents)
  return sip.createSipDispatchRule(
    { type: "individual", roomPrefix },
    { name, trunkIds: [...trunkIds], ...(roomConfig && { roomConfig }) },
  )
}

// Any answer will do: what matters is its header.
const askTheTime = (caller: Caller) => async (request: Request) => {
  try {
    await caller.client(RoomServiceClient, request).listRooms(["-"])
  } catch (error) {
    if (request.status === undefined) throw error
  }
  const accepted = request.status !== undefined && request.status >= 200 && request.status < 300
  return { date: request.date, accepted }
}

const askedBy = (caller: Caller): LiveKitSipShape => {
  const ask = <A>(withinMs: number, question: (sip: SipClient) => Promise<A>) =>
    caller.call(within(withinMs), (request) => question(caller.client(SipClient, request)))
  return {
    configured: true,
    inboundTrunks: (withinMs) =>
      Effect.map(
        ask(withinMs, (sip) => sip.listSipInboundTrunk()),
        (found) => found.map(toTrunk),
      ),
    dispatchRules: (withinMs) =>
      Effect.map(
        ask(withinMs, (sip) => sip.listSipDispatchRule()),
        (found) => found.map(toRule),
      ),
    createInboundTrunk: (wanted, withinMs) =>
      Effect.map(
        ask(withinMs, (sip) => createTrunk(sip, wanted)),
        toTrunk,
      ),
    updateInboundTrunk: (id, fields, withinMs) =>
      Effect.map(
        ask(withinMs, (sip) => sip.updateSipInboundTrunkFields(id, toUpdate(fields))),
        toTrunk,
      ),
    createDispatchRule: (wanted, withinMs) =>
      Effect.map(
        ask(withinMs, (sip) => createRule(sip, wanted)),
        toRule,
      ),
    replaceDispatchRule: Effect.fnUntraced(function* (id, wanted, withinMs) {
      const rules = yield* ask(withinMs, (sip) => sip.listSipDispatchRule())
      const known = rules.find(({ sipDispatchRuleId }) => sipDispatchRuleId === id)
      if (known === undefined)
        return yield* Effect.fail(new LiveKitRefused({ status: 404, code: "not_found" }))
      const changed = changedTo(wanted, known)
      return toRule(yield* ask(withinMs, (sip) => sip.updateSipDispatchRule(id, changed)))
    }),
    serverTime: (withinMs) => caller.call(within(withinMs), askTheTime(caller)),
  }
}

export class LiveKitSip extends Context.Service<LiveKitSip, LiveKitSipShape>()(
  "switchhook/livekit/LiveKitSip",
) {
  /** The LiveKit of `LIVEKIT_URL`, asked with the first of our keys. */
  static readonly layer: Layer.Layer<LiveKitSip, never, Settings> = Layer.effect(
    LiveKitSip,
    Effect.map(configuredCaller, (caller) =>
      LiveKitSip.of(Option.match(caller, { onNone: () => notConfigured, onSome: askedBy })),
    ),
  )
}
