// What an import does, or would do, for a person and for a machine.

import { paint } from "../../logging.ts"
import { type BadLine, fieldNames, shown } from "./entry.ts"
import type { Format } from "./number-file.ts"
import type { Change, Creations, FieldChange, Plan, Skip, Wanted } from "./plan.ts"

export interface Outcome {
  readonly file: string
  readonly format: Format
  readonly plan: Plan
  /** False for a dry run. */
  readonly applied: boolean
}

const green = (text: string) => paint(32, text)
const yellow = (text: string) => paint(33, text)
const red = (text: string) => paint(31, text)
const dim = (text: string) => paint(90, text)

const mostShown = 20

const where = ({ line }: { readonly line: number }) => dim(`line ${line}`.padStart(12))
const value = (text: string | null) => (text === null ? "(none)" : shown(text))

const addLine = (wanted: Wanted) => {
  const fields = fieldNames.flatMap((name) =>
    wanted[name] === null ? [] : [`${name} ${value(wanted[name])}`],
  )
  const type = wanted.type === null ? [] : [wanted.type]
  return `${where(wanted)}  ${wanted.number}  ${[...fields, ...type].join(", ")}`.trimEnd()
}

const fieldLine = ({ field, was, will }: FieldChange) => `${field}: ${value(was)} → ${value(will)}`
const changeLine = (change: Change) =>
  `${where(change)}  ${change.number}  ${change.changes.map(fieldLine).join("; ")}`
const skipLine = (skip: Skip) => `${where(skip)}  ${skip.number}  ${skip.why}`

const badLineText = (bad: BadLine) => {
  const text = bad.text === "" ? "" : `${shown(bad.text)}: `
  return `${where(bad)}  ${text}${bad.problem}. ${bad.remedy}`
}

const section = <A>(
  title: string,
  all: ReadonlyArray<A>,
  lineOf: (item: A) => string,
  most: number,
): ReadonlyArray<string> => {
  if (all.length === 0) return []
  const left = all.length - most
  const more = left > 0 ? [dim(`${" ".repeat(12)}  … and ${left} more: --all shows them`)] : []
  return [`${title} (${all.length})`, ...all.slice(0, most).map(lineOf), ...more, ""]
}

const namesOf = ({ campaigns, carriers, tenants }: Creations): ReadonlyArray<string> => [
  ...carriers.map((name) => `carrier ${shown(name)}`),
  ...tenants.map((name) => `tenant ${shown(name)}`),
  ...campaigns.map(({ name, tenant }) => `campaign ${shown(name)} of the tenant ${shown(tenant)}`),
]

const countOf = ({ add, bad, change, skip }: Plan) =>
  `${add.length} to add, ${change.length} to change, ${skip.length} to skip, ${bad.length} bad`

const ending = ({ applied, plan: { add, bad, change } }: Outcome): string => {
  const numbers = add.length + change.length
  const count = numbers === 1 ? "1 number" : `${numbers} numbers`
  const rest = bad.length === 0 ? "" : ` Correct the bad lines and import the file again.`
  if (numbers === 0) return `Nothing to write.${rest}`
  return applied
    ? `${green(`Written: ${count}, in one transaction.`)}${rest}`
    : `${yellow("A dry run: nothing was written.")} --apply writes ${count}.${rest}`
}

/** For a person: `all` shows every line, otherwise the first few of each kind, and of the bad ones each. */
export const reportLines = (outcome: Outcome, all: boolean): ReadonlyArray<string> => {
  const { file, format, plan } = outcome
  const most = all ? Number.POSITIVE_INFINITY : mostShown
  const indented = (name: string) => `${" ".repeat(12)}  ${name}`
  return [
    `${file} (${format}): ${countOf(plan)}`,
    "",
    ...section("Create", namesOf(plan.create), indented, most),
    ...section("Add", plan.add, addLine, most),
    ...section("Change", plan.change, changeLine, most),
    ...section("Skip", plan.skip, skipLine, most),
    ...section(red("Bad"), plan.bad, badLineText, Number.POSITIVE_INFINITY),
    ...plan.notes.map((note) => `${yellow("Note:")} ${note}`),
    ending(outcome),
  ]
}

const wantedJson = ({ campaign, carrier, line, number, target, tenant, type }: Wanted) => ({
  line,
  number,
  carrier,
  tenant,
  campaign,
  target,
  type,
})

/** For a machine: everything, as one JSON object. */
export const reportJson = ({ applied, file, format, plan }: Outcome): string =>
  JSON.stringify({
    file,
    format,
    applied,
    created: plan.create,
    added: plan.add.map(wantedJson),
    changed: plan.change.map(({ changes, line, number }) => ({ line, number, changes })),
    skipped: plan.skip,
    bad: plan.bad.map(({ _tag, ...bad }) => bad),
    notes: plan.notes,
  })
