// Who would take a call before us: other trunks with the same number, rules that come first, agents beside us.

import { describeRule, fewOf, rulesInOrder, titleOf, trunkConflicts } from "../carriers/provisioning.ts"
import type { DispatchRule } from "../livekit/sip.ts"
import { isCallRoomName } from "./call-rooms.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import { thereIn } from "./look-at-livekit.ts"
import { type FoundTrunk, foundTrunks } from "./watched-trunks.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Conflicts")

/** Two trunks of ours are a conflict once, not twice. */
const otherTrunks = ({ there, trunk }: FoundTrunk, ours: ReadonlySet<string>): ReadonlyArray<Finding> =>
  trunkConflicts(
    trunk.numbers,
    trunk.allowedNumbers,
    there.trunks.filter(({ id }) => (ours.has(id) ? id > trunk.id : id !== trunk.id)),
  ).map(({ numbers, trunk: other }) =>
    error(`The trunk ${titleOf(other)} has ${fewOf(numbers)}, too, beside ${titleOf(trunk)}`, {
      why: "LiveKit drops a call that two trunks would take, whatever addresses they allow.",
      fix: `Take the number off one of the two: lk sip inbound update --id ${other.id} (or LiveKit's console).`,
    }),
  )

// By LiveKit's own order: a rule with a PIN, for certain callers or for certain numbers comes first.
const earlierRules = ({ rule: own, there, trunk }: FoundTrunk): ReadonlyArray<Finding> => {
  if (own === undefined) return []
  const inOrder = rulesInOrder(trunk.id, there.rules, trunk.numbers)
  const place = inOrder.findIndex(({ id }) => id === own.id)
  const before = inOrder.slice(0, Math.max(0, place))
  return before.map((rule) => {
    const what = `The rule ${titleOf(rule)} comes before ${titleOf(own)} for the trunk ${titleOf(trunk)}: ${describeRule(rule)}`
    const fix = `Delete ${rule.id} in LiveKit, or take the trunk off it (lk sip dispatch delete ${rule.id}).`
    if (rule.inboundNumbers.length > 0) {
      const why =
        "Calls of these callers go where that rule says; unless its rooms begin with call-, not here."
      return warning(what, { why, fix })
    }
    const why = rule.hasPin
      ? "LiveKit then asks every caller for a PIN before anything rings."
      : "It takes the calls, whoever calls."
    return error(what, { why, fix })
  })
}

const agentsBeside = (rule: DispatchRule): Finding => {
  const names = rule.agents.map((name) => (name === "" ? "any agent without a name" : name))
  return error(
    `The rule ${titleOf(rule)} dispatches agents itself (${fewOf(names)}) into rooms that we take, too`,
    {
      why: "With our own dispatch two join: both talk to the caller at once.",
      fix: `Take roomConfig.agents off ${rule.id}: npm run provision does it for a carrier's own rule.`,
    },
  )
}

/** Nothing where LiveKit's trunks could not be listed, which is a finding of its own. */
export const checkConflicts = (world: World): ReadonlyArray<Finding> => {
  const there = thereIn(world.livekit)
  if (there === undefined) return []
  const found = foundTrunks(world)
  const ours = new Set(found.map(({ trunk }) => trunk.id))
  const problems = [
    ...found.flatMap((one) => otherTrunks(one, ours)),
    ...found.flatMap(earlierRules),
    ...there.rules.filter((rule) => rule.agents.length > 0 && isCallRoomName(rule)).map(agentsBeside),
  ]
  if (problems.length > 0) return problems
  return [ok("No other trunk or rule takes the calls first, and none dispatches agents beside us")]
}
