// What an import would do: the lines of a file held against what the database knows. Changes nothing.

import { type NumberType, numberTypeOf } from "../../routing/number-type.ts"
import { type BadLine, badLine, type FieldName, fieldNames, type LeftOut, shown } from "./entry.ts"
import type { NumberFile, NumberLine, Progress } from "./number-file.ts"
import { closest, makeSuggest, type Suggest } from "./suggestion.ts"

/** What a number is assigned to, by name. */
export type Assignment = Readonly<Record<FieldName, string | null>>

/** A number of the file that the database has already. */
export interface KnownNumber extends Assignment {
  readonly number: string
  readonly type: NumberType | null
  /** Whose campaign it is. */
  readonly campaign_tenant: string | null
}

export interface Known {
  readonly carriers: ReadonlySet<string>
  /** Kept for the calls they delivered only. */
  readonly archivedCarriers: ReadonlySet<string>
  readonly tenants: ReadonlySet<string>
  /** By tenant. */
  readonly campaigns: ReadonlyMap<string, ReadonlySet<string>>
  readonly numbers: ReadonlyMap<string, KnownNumber>
}

/** How a number will stand in the database. */
export interface Wanted extends Assignment {
  readonly line: number
  readonly number: string
  readonly raw: string
  readonly type: NumberType | null
}

export interface FieldChange {
  readonly field: FieldName | "type"
  readonly was: string | null
  readonly will: string | null
}

export interface Change extends Wanted {
  readonly changes: ReadonlyArray<FieldChange>
}

export interface Skip {
  readonly line: number
  readonly number: string
  readonly why: string
}

/** Names that do not exist yet. */
export interface Creations {
  readonly carriers: ReadonlyArray<string>
  readonly tenants: ReadonlyArray<string>
  readonly campaigns: ReadonlyArray<{ readonly tenant: string; readonly name: string }>
}

export interface Plan {
  readonly create: Creations
  readonly add: ReadonlyArray<Wanted>
  readonly change: ReadonlyArray<Change>
  readonly skip: ReadonlyArray<Skip>
  readonly bad: ReadonlyArray<BadLine>
  readonly notes: ReadonlyArray<string>
}

const longestName = 200
const unstorable = /\p{Cc}/u
const targets = ["fleet", "agent"]

const problemsOfText = ({ fields, line, raw }: NumberLine): BadLine | undefined => {
  const bad = (problem: string, remedy: string) => badLine(line, raw, problem, remedy)
  for (const name of fieldNames) {
    const value = fields[name] ?? ""
    if (value.length > longestName)
      return bad(`the ${name} is longer than ${longestName} characters`, "Shorten it.")
    if (unstorable.test(value))
      return bad(
        `the ${name} ${shown(value)} holds a line break or another control character`,
        "Remove that character.",
      )
  }
  const target = fields.target ?? ""
  if (target === "" || targets.includes(target)) return undefined
  const meant = closest(target, targets)
  return bad(
    `the target ${shown(target)} is neither fleet nor agent`,
    meant === undefined
      ? "Write fleet or agent, or leave it empty for what INBOUND_TARGET says."
      : `Did you mean ${meant}?`,
  )
}

const archivedCarrier = ({ fields: { carrier = "" } }: NumberLine, known: Known) =>
  known.archivedCarriers.has(carrier)
    ? ([
        `the carrier ${shown(carrier)} is archived`,
        "Bring it back through the admin API, or name another one.",
      ] as const)
    : undefined

const unknownName = (what: string, name: string, meant: string | undefined) => {
  const hint = meant === undefined ? "Correct the name" : `Did you mean ${shown(meant)}? If not, correct it`
  return [`there is no ${what} ${shown(name)}`, `${hint}, or let --create make it.`] as const
}

const problemOfNames = (
  { fields }: NumberLine,
  known: Known,
  suggest: Suggest,
): readonly [string, string] | undefined => {
  const { campaign = "", carrier = "", tenant = "" } = fields
  const unknown = (what: string, name: string, names: ReadonlySet<string>) =>
    name === "" || names.has(name) ? undefined : unknownName(what, name, suggest(what, name, names))
  const found = unknown("carrier", carrier, known.carriers) ?? unknown("tenant", tenant, known.tenants)
  if (found !== undefined) return found
  const campaigns = known.campaigns.get(tenant) ?? new Set<string>()
  if (campaign === "" || campaigns.has(campaign)) return undefined
  const meant = suggest(`campaign of ${tenant}`, campaign, campaigns)
  const [problem, remedy] = unknownName("campaign", campaign, meant)
  return [`${problem} of the tenant ${shown(tenant)}`, remedy]
}

// What a person or Twilio has said about a number weighs more than what its numbering plan says.
const typeOf = ({ number, type }: NumberLine, now: KnownNumber | undefined) =>
  type ?? now?.type ?? numberTypeOf(number) ?? null

const wantedOf = (row: NumberLine, now: KnownNumber | undefined): Wanted => {
  const field = (name: FieldName) => {
    const said = row.fields[name]
    return said === undefined ? (now?.[name] ?? null) : said === "" ? null : said
  }
  return {
    line: row.line,
    number: row.number,
    raw: row.raw,
    carrier: field("carrier"),
    tenant: field("tenant"),
    campaign: field("campaign"),
    target: field("target"),
    type: typeOf(row, now),
  }
}

/** A number that keeps its campaign must not be given to another tenant. */
const torn = ({ fields }: NumberLine, wanted: Wanted, now: KnownNumber | undefined) => {
  const { campaign } = wanted
  if (now === undefined || fields.campaign !== undefined || campaign === null || !fields.tenant)
    return undefined
  if (now.campaign_tenant === fields.tenant) return undefined
  const owner = shown(now.campaign_tenant ?? "")
  return [
    `its campaign ${shown(campaign)} belongs to the tenant ${owner}, not to ${shown(fields.tenant)}`,
    "Name one of that tenant's campaigns in a column campaign, or leave that column empty.",
  ] as const
}

const changedFields = [...fieldNames, "type"] as const

const changesOf = ({ fields }: NumberLine, wanted: Wanted, now: KnownNumber): ReadonlyArray<FieldChange> =>
  changedFields.flatMap((field) => {
    if (wanted[field] !== now[field]) return [{ field, was: now[field], will: wanted[field] }]
    // Two tenants may have campaigns of one name.
    const moved = field === "campaign" && fields.campaign && now.campaign_tenant !== wanted.tenant
    return moved ? [{ field, was: `${now.campaign} of ${now.campaign_tenant}`, will: wanted.campaign }] : []
  })

const same = (one: Wanted, other: Wanted) => fieldNames.every((field) => one[field] === other[field])

const differences = (first: Wanted, second: Wanted): string =>
  fieldNames
    .filter((field) => first[field] !== second[field])
    .map((field) => `${field} ${first[field] === null ? "(none)" : shown(first[field])}`)
    .join(", ")

const makeCreations = (known: Known) => {
  const carriers = new Set<string>()
  const tenants = new Set<string>()
  const campaigns = new Map<string, { readonly tenant: string; readonly name: string }>()
  return {
    // Only what the file itself names: a number may keep a carrier that is archived.
    need: ({ fields: { campaign = "", carrier = "", tenant = "" } }: NumberLine) => {
      if (carrier !== "" && !known.carriers.has(carrier)) carriers.add(carrier)
      if (tenant !== "" && !known.tenants.has(tenant)) tenants.add(tenant)
      if (campaign !== "" && known.campaigns.get(tenant)?.has(campaign) !== true)
        campaigns.set(JSON.stringify([tenant, campaign]), { tenant, name: campaign })
    },
    result: (): Creations => ({
      carriers: [...carriers],
      tenants: [...tenants],
      campaigns: [...campaigns.values()],
    }),
  }
}

const homeless = ({ fields: { campaign = "", tenant = "" } }: NumberLine) =>
  campaign !== "" && tenant === ""
    ? ([`the campaign ${shown(campaign)} has no tenant`, "Name its tenant in a column tenant."] as const)
    : undefined

const makeCheck = (known: Known, create: boolean) => {
  const suggest = makeSuggest()
  return (row: NumberLine, wanted: Wanted): BadLine | undefined => {
    const textual = problemsOfText(row)
    if (textual !== undefined) return textual
    const found =
      homeless(row) ??
      archivedCarrier(row, known) ??
      (create ? undefined : problemOfNames(row, known, suggest)) ??
      torn(row, wanted, known.numbers.get(row.number))
    return found && badLine(row.line, row.raw, ...found)
  }
}

const leftOutAsSkip = ({ line, number, why }: LeftOut): Skip => ({ line, number, why })
const byLine = (one: { readonly line: number }, other: { readonly line: number }) => one.line - other.line

/** The lines of a file as they come, sorted by what is to be done about them. */
const makeSorter = (file: NumberFile, known: Known) => {
  const add: Array<Wanted> = []
  const change: Array<Change> = []
  const skip = file.leftOut.map(leftOutAsSkip)
  const bad = [...file.bad]
  const first = new Map<string, Wanted>()
  const creations = makeCreations(known)
  return {
    earlier: (number: string) => first.get(number),
    takeBad: (line: BadLine) => bad.push(line),
    takeFirst: (row: NumberLine, wanted: Wanted, now: KnownNumber | undefined) => {
      first.set(row.number, wanted)
      const changes = now === undefined ? [] : changesOf(row, wanted, now)
      if (now === undefined) add.push(wanted)
      else if (changes.length > 0) change.push({ ...wanted, changes })
      else return skip.push({ line: row.line, number: row.number, why: "already so" })
      return creations.need(row)
    },
    takeAgain: ({ line, number, raw }: NumberLine, earlier: Wanted, wanted: Wanted) => {
      if (same(earlier, wanted)) return skip.push({ line, number, why: `as on line ${earlier.line} already` })
      const problem = `line ${earlier.line} assigns ${number} otherwise: ${differences(earlier, wanted)}`
      return bad.push(badLine(line, raw, problem, "Keep one of the two lines; the first one counts."))
    },
    result: (): Plan => ({
      create: creations.result(),
      add,
      change,
      skip: skip.sort(byLine),
      bad: bad.sort(byLine),
      notes: file.notes,
    }),
  }
}

/** With `create`, names that do not exist are made rather than refused. */
export const planImport = (file: NumberFile, known: Known, create: boolean, progress: Progress): Plan => {
  const problemOf = makeCheck(known, create)
  const sorter = makeSorter(file, known)
  for (const [index, row] of file.numbers.entries()) {
    const now = known.numbers.get(row.number)
    const wanted = wantedOf(row, now)
    const problem = problemOf(row, wanted)
    const earlier = sorter.earlier(row.number)
    if (problem !== undefined) sorter.takeBad(problem)
    else if (earlier === undefined) sorter.takeFirst(row, wanted, now)
    else sorter.takeAgain(row, earlier, wanted)
    if (index % 5_000 === 0) progress(index, file.numbers.length)
  }
  return sorter.result()
}
