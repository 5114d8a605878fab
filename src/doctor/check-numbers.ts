// The numbers: in one form in LiveKit and here, missing on neither side, and not taken for those of callers.

import { comparable, fewOf, rulesInOrder, titleOf } from "../carriers/provisioning.ts"
import type { SettingsShape } from "../config.ts"
import { toE164 } from "../routing/numbers.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import { storedOf } from "./look-at-database.ts"
import { thereIn } from "./look-at-livekit.ts"
import { type FoundTrunk, foundTrunks, provisionOf } from "./watched-trunks.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Numbers")

// ---- One form

const ofForms = (found: FoundTrunk, { defaultRegion }: SettingsShape): ReadonlyArray<Finding> => {
  const { numbers } = found.trunk
  const meant = (number: string) => toE164(number, defaultRegion) ?? number
  const unmatched = numbers.filter((number) => comparable(number) !== meant(number))
  const unlike = numbers.filter((number) => comparable(number) === meant(number) && number !== meant(number))
  const findings: Array<Finding> = []
  if (unmatched.length > 0) {
    findings.push(
      error(
        `The trunk ${titleOf(found.trunk)} has numbers that LiveKit reads otherwise: ${fewOf(unmatched)}`,
        {
          why: `LiveKit only puts a + before the digits: ${unmatched[0]} is ${comparable(unmatched[0] ?? "")} to it, not ${meant(unmatched[0] ?? "")}, and the call is dropped.`,
          fix: provisionOf(found),
        },
      ),
    )
  }
  if (unlike.length > 0) {
    const mixed = unlike.length < numbers.length ? ", others with it" : ""
    findings.push(
      warning(
        `The trunk ${titleOf(found.trunk)} has numbers without the + of E.164${mixed}: ${fewOf(unlike)}`,
        {
          why: "LiveKit takes both for the same; whoever looks for a number in one form does not find the other.",
          fix: `Write them as E.164 (${meant(unlike[0] ?? "")}) in the trunk ${found.trunk.id}: lk sip inbound update.`,
        },
      ),
    )
  }
  return findings
}

// ---- On both sides

const missingInTrunk = (found: FoundTrunk, { defaultRegion }: SettingsShape): ReadonlyArray<Finding> => {
  if (found.numbers === undefined || found.trunk.numbers.length === 0) return []
  // One in another form is there, and another finding.
  const there = new Set(
    found.trunk.numbers.flatMap((number) => [comparable(number), toE164(number, defaultRegion)]),
  )
  const missing = found.numbers.filter((number) => !there.has(number))
  if (missing.length === 0) return []
  return [
    error(`The trunk ${titleOf(found.trunk)} lacks DIDs of its carrier: ${fewOf(missing)}`, {
      why: "LiveKit drops calls to numbers that no trunk has, and sends no webhook.",
      fix: provisionOf(found),
    }),
  ]
}

const anyNumber = (found: FoundTrunk): ReadonlyArray<Finding> =>
  found.trunk.numbers.length > 0
    ? []
    : [
        warning(`The trunk ${titleOf(found.trunk)} names no number: it takes calls to any`, {
          why: "Whatever number is called comes in, and those nobody knows get the default agent.",
          fix: provisionOf(found),
        }),
      ]

const missingHere = (found: FoundTrunk, known: ReadonlySet<string>, { defaultRegion }: SettingsShape) => {
  // Without any DID every number is meant to go the same way.
  if (known.size === 0) return []
  const unknown = found.trunk.numbers.filter((number) => {
    const e164 = toE164(number, defaultRegion) ?? number
    return !known.has(e164) && !known.has(comparable(number))
  })
  if (unknown.length === 0) return []
  return [
    warning(`The trunk ${titleOf(found.trunk)} has numbers that are no DIDs here: ${fewOf(unknown)}`, {
      why: "Calls to them come in without tenant and campaign, and get the default.",
      fix: "Add them as DIDs of the carrier (npm run import-numbers, or the admin API), or take them off the trunk.",
    }),
  ]
}

const withoutTrunk = (world: World): ReadonlyArray<Finding> => {
  const there = thereIn(world.livekit)
  const dids = storedOf(world.database)?.dids ?? []
  if (there === undefined || there.trunks.some(({ numbers }) => numbers.length === 0)) return []
  const inTrunks = new Set(there.trunks.flatMap(({ numbers }) => numbers.map(comparable)))
  const lost = dids.filter((did) => did.carrier_id === null && !inTrunks.has(did.number))
  if (lost.length === 0) return []
  return [
    warning(`DIDs of no carrier, which no trunk has either: ${fewOf(lost.map(({ number }) => number))}`, {
      why: "LiveKit drops calls to numbers that no trunk has, and sends no webhook.",
      fix: "Give them a carrier (the admin API: PATCH /api/v1/admin/dids/…), and then npm run provision.",
    }),
  ]
}

// ---- Callers taken for callees

const filterWhy =
  "The list filters who calls, not what is called: nobody calls from your own numbers, so no call comes in, " +
  "and no webhook is sent either."

/** Where all of them are the carrier's own, `provision` knows what was meant. */
const isMended = ({ numbers = [], trunk }: FoundTrunk): boolean =>
  trunk.allowedNumbers.every((caller) => numbers.includes(comparable(caller)))

const filterTrap = (found: FoundTrunk, own: ReadonlySet<string>): ReadonlyArray<Finding> => {
  const ours = (numbers: ReadonlyArray<string>) => numbers.filter((number) => own.has(comparable(number)))
  const { there, trunk } = found
  const findings: Array<Finding> = []
  const callers = ours(trunk.allowedNumbers)
  if (callers.length > 0) {
    findings.push(
      error(
        `The trunk ${titleOf(trunk)} allows calls from our own DIDs (allowedNumbers): ${fewOf(callers)}`,
        {
          why: filterWhy,
          fix: isMended(found)
            ? provisionOf(found)
            : `Take them off allowed_numbers of ${trunk.id} in LiveKit.`,
        },
      ),
    )
  } else if (trunk.allowedNumbers.length > 0) {
    findings.push(
      warning(`The trunk ${titleOf(trunk)} takes calls from ${fewOf(trunk.allowedNumbers)} only`, {
        why: "allowedNumbers are those of callers: everybody else is dropped, without a webhook.",
        fix: `Empty allowed_numbers of ${trunk.id}, unless that is what you want.`,
      }),
    )
  }
  for (const rule of rulesInOrder(trunk.id, there.rules)) {
    const inbound = ours(rule.inboundNumbers)
    if (inbound.length === 0) continue
    findings.push(
      error(`The rule ${titleOf(rule)} is for calls from our own DIDs (inboundNumbers): ${fewOf(inbound)}`, {
        why: filterWhy,
        fix:
          rule.id === found.rule?.id
            ? provisionOf(found)
            : `Empty inbound_numbers of ${rule.id}; the numbers called are in its \`numbers\`.`,
      }),
    )
  }
  return findings
}

/** Nothing where LiveKit's trunks could not be listed, which is a finding of its own. */
export const checkNumbers = (world: World): ReadonlyArray<Finding> => {
  if (thereIn(world.livekit) === undefined) return []
  const found = foundTrunks(world)
  const known = new Set((storedOf(world.database)?.dids ?? []).map(({ number }) => number))
  const own = new Set([...known, ...found.flatMap(({ trunk }) => trunk.numbers.map(comparable))])
  const problems = found.flatMap((one) => [
    ...ofForms(one, world.settings),
    ...anyNumber(one),
    ...missingInTrunk(one, world.settings),
    ...missingHere(one, known, world.settings),
    ...filterTrap(one, own),
  ])
  const all = [...problems, ...withoutTrunk(world)]
  if (all.length > 0) return all
  return found.length === 0 ? [] : [ok("Trunks and database have the same ones, all as E.164")]
}
