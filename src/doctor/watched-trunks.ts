// Which of LiveKit's trunks are ours to look at, and what is known of each.

import { callPrefix, ownRule, rulesInOrder, type There } from "../carriers/provisioning.ts"
import type { DispatchRule, InboundTrunk } from "../livekit/sip.ts"
import { isCallRoomName } from "./call-rooms.ts"
import { storedOf } from "./look-at-database.ts"
import { thereIn } from "./look-at-livekit.ts"
import type { World } from "./world.ts"

/** A trunk that should bring calls here. A carrier may have none yet. */
export interface WatchedTrunk {
  readonly trunkId: string | undefined
  readonly ruleId: string | undefined
  /** The carrier whose it is; none for one of the settings, or one that was found. */
  readonly carrier: string | undefined
  /** What the database says it should have; unknown without a carrier. */
  readonly numbers: ReadonlyArray<string> | undefined
}

/** One that LiveKit has, with what LiveKit has beside it. */
export interface FoundTrunk extends WatchedTrunk {
  readonly trunk: InboundTrunk
  /** The rule that brings its calls here, or that failover has changed. */
  readonly rule: DispatchRule | undefined
  readonly there: There
}

// A rule that names no trunk serves those that have none of their own.
const forEveryTrunk = ({ hasPin, inboundNumbers, kind, numbers, roomPrefix, trunkIds }: DispatchRule) =>
  trunkIds.length + inboundNumbers.length + numbers.length === 0 &&
  !hasPin &&
  kind === "individual" &&
  roomPrefix === callPrefix

const ruleOf = (trunkId: string, ruleId: string | undefined, { rules }: There) => {
  const stored = ownRule(trunkId, rules, ruleId)
  if (stored?.trunkIds.includes(trunkId) === true) return stored
  return ownRule(trunkId, rules) ?? rules.find(forEveryTrunk)
}

const byId = (trunkId: string): WatchedTrunk => ({
  trunkId,
  ruleId: undefined,
  carrier: undefined,
  numbers: undefined,
})

const leadsHere = (there: There) => (trunk: InboundTrunk) => {
  const [first] = rulesInOrder(trunk.id, there.rules, trunk.numbers)
  return first !== undefined && isCallRoomName(first)
}

/** The carriers' and those of the settings; where nobody names any, those whose calls come here. */
export const watchedTrunks = ({ database, livekit, settings }: World): ReadonlyArray<WatchedTrunk> => {
  const carriers = (storedOf(database)?.carriers ?? []).map(
    ({ name, numbers, ruleId, trunkId }): WatchedTrunk => ({ trunkId, ruleId, carrier: name, numbers }),
  )
  const known = new Set(carriers.map(({ trunkId }) => trunkId))
  const named = [...new Set(settings.inboundTrunks)].filter((id) => !known.has(id)).map(byId)
  const watched = [...carriers, ...named]
  if (watched.length > 0) return watched
  const there = thereIn(livekit)
  return there?.trunks.filter(leadsHere(there)).map(({ id }) => byId(id)) ?? []
}

/** Those that LiveKit has. */
export const foundTrunks = (world: World): ReadonlyArray<FoundTrunk> => {
  const there = thereIn(world.livekit)
  if (there === undefined) return []
  return watchedTrunks(world).flatMap((watched) => {
    const trunk = there.trunks.find(({ id }) => id === watched.trunkId)
    if (trunk === undefined) return []
    return [{ ...watched, trunk, rule: ruleOf(trunk.id, watched.ruleId, there), there }]
  })
}

/** The command that puts a trunk right. */
export const provisionOf = ({ carrier, trunkId }: WatchedTrunk): string => {
  if (carrier !== undefined) return `npm run provision -- --carrier ${JSON.stringify(carrier)}`
  return `Make it a carrier's, with its DIDs, and then: npm run provision -- --carrier <name> --trunk ${trunkId}`
}
