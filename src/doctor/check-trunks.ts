// Each trunk and its rule in LiveKit: there, and as they are stored.

import {
  type Change,
  callPrefix,
  describeRule,
  failoverPrefix,
  fewOf,
  isOpen,
  planFor,
  rulesInOrder,
  titleOf,
} from "../carriers/provisioning.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import { thereIn } from "./look-at-livekit.ts"
import {
  type FoundTrunk,
  foundTrunks,
  provisionOf,
  type WatchedTrunk,
  watchedTrunks,
} from "./watched-trunks.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Trunks")

const ownerOf = ({ carrier, trunkId }: WatchedTrunk) =>
  carrier === undefined ? `the trunk ${trunkId}` : `the carrier ${JSON.stringify(carrier)}`

const noTrunks = error("No trunk in LiveKit brings calls here", {
  why: `There is no carrier, no LIVEKIT_INBOUND_TRUNK_ID, and no rule that makes rooms ${callPrefix}…: no webhook of a call ever comes.`,
  fix: "Add a carrier with its DIDs, and then: npm run provision -- --carrier <name> --allow <its network>",
})

// ---- Trunks

const missingTrunk = (watched: WatchedTrunk): Finding => {
  if (watched.trunkId === undefined) {
    const first = watched.numbers?.length === 0 ? "Add its DIDs first, then: " : ""
    return warning(`There is no trunk for ${ownerOf(watched)}`, {
      why: "LiveKit drops calls that no trunk matches, without a webhook; and a hidden number cannot be told.",
      fix: `${first}${provisionOf(watched)} --allow <its network>`,
    })
  }
  const of = watched.carrier === undefined ? "LIVEKIT_INBOUND_TRUNK_ID" : ownerOf(watched)
  return error(`The trunk ${watched.trunkId} of ${of} is not in LiveKit`, {
    why: "LiveKit drops calls that no trunk matches, and sends no webhook at all.",
    fix:
      watched.carrier === undefined
        ? "Correct LIVEKIT_INBOUND_TRUNK_ID, or is LIVEKIT_URL another project's?"
        : `${provisionOf(watched)} makes it anew; or is LIVEKIT_URL another project's?`,
  })
}

const ofTrunk = (found: FoundTrunk, world: World): ReadonlyArray<Finding> => {
  const { trunk } = found
  const findings: Array<Finding> = []
  if (world.settings.outboundTrunks.has(trunk.id)) {
    findings.push(
      error(`The inbound trunk ${titleOf(trunk)} is listed in LIVEKIT_OUTBOUND_TRUNK_ID`, {
        why: "Legs of outbound trunks are never dispatched: nobody answers its callers.",
        fix: `Take ${trunk.id} out of LIVEKIT_OUTBOUND_TRUNK_ID.`,
      }),
    )
  }
  if (isOpen(trunk)) {
    findings.push(
      warning(`The trunk ${titleOf(trunk)} takes calls from anybody`, {
        why: "It asks for no address and no password: whoever finds the host can ring your workers.",
        fix: `${provisionOf(found)} --allow <the carrier's network>`,
      }),
    )
  }
  return findings
}

// ---- Rules

const withoutRule = (found: FoundTrunk): Finding => {
  const [first] = rulesInOrder(found.trunk.id, found.there.rules, found.trunk.numbers)
  const now =
    first === undefined
      ? "LiveKit drops its calls"
      : `its calls go to ${titleOf(first)}: ${describeRule(first)}`
  return error(`The trunk ${titleOf(found.trunk)} has no rule of its own for rooms ${callPrefix}…; ${now}`, {
    why: "Only callers in such rooms, each in one of their own, are handed over.",
    fix: provisionOf(found),
  })
}

const shown = ({ added, field, removed }: Change) => {
  const list = (items: ReadonlyArray<string>) => (items.length === 0 ? "none" : fewOf(items))
  return `${field}: ${list(removed)}, should be ${list(added)}`
}

const hidden = (found: FoundTrunk): ReadonlyArray<Finding> => {
  if (found.rule?.hidePhoneNumber !== true || (found.numbers?.length ?? 0) < 2) return []
  return [
    warning(
      `The rule ${titleOf(found.rule)} hides numbers, and its carrier has ${found.numbers?.length} DIDs`,
      {
        why: `Which one was called is then unknown: every call counts as one to the first, ${found.numbers?.[0]}.`,
        fix: `Switch hide_phone_number off in the rule ${found.rule.id}, or give each DID a carrier of its own.`,
      },
    ),
  ]
}

/** As stored, leaving agents aside: those are another finding. */
const ofRule = (found: FoundTrunk): ReadonlyArray<Finding> => {
  const { carrier, rule, ruleId, there, trunk } = found
  if (rule === undefined) return [withoutRule(found)]
  const rules = there.rules.map((one) => ({ ...one, agents: [] }))
  const wanted = {
    carrier: carrier ?? trunk.name,
    numbers: found.numbers ?? trunk.numbers,
    trunkId: trunk.id,
    ruleId: rule.id,
    allowedAddresses: undefined,
    credentials: undefined,
    settledTrunkId: trunk.id,
    mayRemoveNumbers: true,
  }
  const isForEveryTrunk = rule.trunkIds.length === 0
  const step = isForEveryTrunk
    ? { kind: "keep" as const }
    : planFor(wanted, { trunks: there.trunks, rules }).rule
  if (step.kind === "failover") {
    return [
      warning(`Failover is on for the trunk ${titleOf(trunk)}: its calls go to rooms ${failoverPrefix}…`, {
        why: "LiveKit sends its own agent to these callers; Switchhook lets them pass by.",
        fix: `npm run failover -- off --trunk ${trunk.id}`,
      }),
    ]
  }
  if (step.kind === "replace") {
    return [
      error(`The rule ${titleOf(rule)} is not as it should be (${step.changes.map(shown).join("; ")})`, {
        why: `Only an individual rule for rooms ${callPrefix}…, for whoever calls, brings every call here.`,
        fix: provisionOf(found),
      }),
    ]
  }
  if (ruleId !== undefined && ruleId !== rule.id) {
    return [
      warning(`The rule ${ruleId} is stored for ${ownerOf(found)}, and LiveKit has ${titleOf(rule)}`, {
        why: "Somebody has made the rule anew: commands that take the stored one look in the wrong place.",
        fix: provisionOf(found),
      }),
    ]
  }
  return hidden(found)
}

const ofOne = (found: FoundTrunk, world: World): ReadonlyArray<Finding> => {
  const problems = [...ofTrunk(found, world), ...ofRule(found)]
  if (problems.length > 0) return problems
  return [ok(`${titleOf(found.trunk)} and its rule are as they should be (${ownerOf(found)})`)]
}

/** Nothing where LiveKit's trunks could not be listed, which is a finding of its own. */
export const checkTrunks = (world: World): ReadonlyArray<Finding> => {
  if (thereIn(world.livekit) === undefined) return []
  const watched = watchedTrunks(world)
  const found = foundTrunks(world)
  const foundIds = new Set(found.map(({ trunkId }) => trunkId))
  if (watched.length === 0) return [noTrunks]
  const missing = watched.filter(({ trunkId }) => trunkId === undefined || !foundIds.has(trunkId))
  return [...missing.map(missingTrunk), ...found.flatMap((one) => ofOne(one, world))]
}
