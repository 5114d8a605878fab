// What an import would do to numbers that are known, half known and unknown.

import { describe, expect, it } from "vitest"
import { type Fields, fieldNames } from "../../src/carriers/import/entry.ts"
import type { NumberFile, NumberLine } from "../../src/carriers/import/number-file.ts"
import { type Known, type KnownNumber, planImport } from "../../src/carriers/import/plan.ts"
import { numberTypeOf } from "../../src/routing/number-type.ts"

const nothing: Fields = { carrier: undefined, tenant: undefined, campaign: undefined, target: undefined }

const line = (at: number, number: string, fields: Partial<Fields> = {}, more: Partial<NumberLine> = {}) => ({
  line: at,
  number,
  raw: number,
  fields: { ...nothing, ...fields },
  type: undefined,
  ...more,
})

const fileOf = (...numbers: ReadonlyArray<NumberLine>): NumberFile => ({
  format: "csv",
  numbers,
  bad: [],
  leftOut: [],
  notes: [],
})

const knownNumber = (number: string, more: Partial<KnownNumber> = {}): KnownNumber => ({
  number,
  carrier: null,
  tenant: null,
  campaign: null,
  campaign_tenant: null,
  target: null,
  type: null,
  ...more,
})

const knowing = (...numbers: ReadonlyArray<KnownNumber>): Known => ({
  carriers: new Set(["Telnyx", "Twilio"]),
  archivedCarriers: new Set(["Gone"]),
  tenants: new Set(["Acme", "Globex"]),
  campaigns: new Map([
    ["Acme", new Set(["Sales", "Support"])],
    ["Globex", new Set(["Sales"])],
  ]),
  numbers: new Map(numbers.map((known) => [known.number, known])),
})

const plan = (numbers: ReadonlyArray<NumberLine>, known = knowing(), create = false) =>
  planImport(fileOf(...numbers), known, create, () => {})

const one = "+15551110001"

describe("a number that is not known", () => {
  it("is added with what the file says, and nothing else", () => {
    const { add } = plan([line(2, one, { carrier: "Telnyx", tenant: "Acme", campaign: "Sales", target: "" })])
    expect(add).toEqual([
      {
        line: 2,
        number: one,
        raw: one,
        carrier: "Telnyx",
        tenant: "Acme",
        campaign: "Sales",
        target: null,
        type: null,
      },
    ])
  })
})

describe("a number that is known", () => {
  const known = knownNumber(one, {
    carrier: "Telnyx",
    tenant: "Acme",
    campaign: "Sales",
    campaign_tenant: "Acme",
    target: "agent",
    type: "local",
  })
  const planned = (fields: Partial<Fields>, more: Partial<NumberLine> = {}) =>
    plan([line(2, one, fields, more)], knowing(known))

  it("is skipped where the file says nothing, or the same", () => {
    const skip = [{ line: 2, number: one, why: "already so" }]
    expect(planned({})).toMatchObject({ add: [], change: [], skip, bad: [] })
    const same = Object.fromEntries(fieldNames.map((name) => [name, known[name] ?? ""])) as Fields
    expect(planned(same)).toMatchObject({ add: [], change: [], skip, bad: [] })
  })

  it("is changed field by field: an empty field means none, a missing column leaves it", () => {
    expect(planned({ carrier: "Twilio", target: "" }).change).toMatchObject([
      {
        changes: [
          { field: "carrier", was: "Telnyx", will: "Twilio" },
          { field: "target", was: "agent", will: null },
        ],
      },
    ])
  })

  it("moves to the campaign of the same name of another tenant", () => {
    expect(planned({ tenant: "Globex", campaign: "Sales" }).change).toMatchObject([
      {
        changes: [
          { field: "tenant", was: "Acme", will: "Globex" },
          { field: "campaign", was: "Sales of Acme", will: "Sales" },
        ],
      },
    ])
  })

  it("is not given to another tenant with its campaign left behind", () => {
    expect(planned({ tenant: "Globex" }).bad).toMatchObject([
      { line: 2, problem: 'its campaign "Sales" belongs to the tenant "Acme", not to "Globex"' },
    ])
    expect(planned({ tenant: "Globex", campaign: "" }).bad).toEqual([])
  })

  it("keeps the type it has, unless the file itself says another", () => {
    expect(planned({}).skip).toHaveLength(1)
    expect(planned({}, { type: "mobile" }).change).toMatchObject([
      { changes: [{ field: "type", was: "local", will: "mobile" }] },
    ])
    const mobile = "+447400123456"
    expect(plan([line(2, mobile)], knowing(knownNumber(mobile))).change).toMatchObject([
      { changes: [{ field: "type", was: null, will: "mobile" }] },
    ])
  })
})

describe("a number that is in the file twice", () => {
  it("is skipped the second time where both say the same, in whatever form", () => {
    const rows = [
      line(2, one, { carrier: "Telnyx" }),
      line(3, one, { carrier: "Telnyx" }, { raw: "555 111-0001" }),
    ]
    expect(plan(rows)).toMatchObject({
      add: [{ line: 2 }],
      skip: [{ line: 3, number: one, why: "as on line 2 already" }],
      bad: [],
    })
  })

  it("is bad the second time where they contradict each other", () => {
    expect(plan([line(2, one, { carrier: "Telnyx" }), line(3, one, { carrier: "" })])).toMatchObject({
      add: [{ line: 2 }],
      bad: [{ line: 3, problem: `line 2 assigns ${one} otherwise: carrier "Telnyx"` }],
    })
  })

  it("counts where it is good, when the first of its lines is bad", () => {
    expect(plan([line(2, one, { carrier: "Nobody" }), line(3, one, { carrier: "Telnyx" })])).toMatchObject({
      add: [{ line: 3 }],
      bad: [{ line: 2 }],
    })
  })
})

describe("a bad line", () => {
  it.each<[Partial<Fields>, string, string]>([
    [{ carrier: "telnix" }, 'there is no carrier "telnix"', 'Did you mean "Telnyx"?'],
    [{ carrier: "Bandwidth" }, 'there is no carrier "Bandwidth"', "--create"],
    [{ carrier: "Gone" }, 'the carrier "Gone" is archived', "admin API"],
    [{ tenant: "acme" }, 'there is no tenant "acme"', 'Did you mean "Acme"?'],
    [{ tenant: "Globex", campaign: "Support" }, 'no campaign "Support" of the tenant "Globex"', "--create"],
    [{ campaign: "Sales" }, 'the campaign "Sales" has no tenant', "column tenant"],
    [{ target: "agnet" }, 'the target "agnet" is neither fleet nor agent', "Did you mean agent?"],
    [{ target: "both" }, 'the target "both" is neither', "INBOUND_TARGET"],
    [{ carrier: "x".repeat(201) }, "the carrier is longer than 200 characters", "Shorten"],
    [{ tenant: "a\nb" }, 'the tenant "a\\nb" holds a line break', "Remove"],
  ])("%j says what is wrong and what to do", (fields, problem, remedy) => {
    expect(plan([line(7, one, fields)])).toMatchObject({
      add: [],
      bad: [
        {
          line: 7,
          text: one,
          problem: expect.stringContaining(problem),
          remedy: expect.stringContaining(remedy),
        },
      ],
    })
  })
})

describe("with --create", () => {
  it("names that do not exist are made, each once, and only where a line needs them", () => {
    const rows = [
      line(2, one, { carrier: "New", tenant: "Initech", campaign: "Sales" }),
      line(3, "+15551110002", { carrier: "New", tenant: "Acme", campaign: "Autumn" }),
      line(4, "+15551110003", { carrier: "Other", target: "nobody" }),
    ]
    expect(plan(rows, knowing(), true)).toMatchObject({
      create: {
        carriers: ["New"],
        tenants: ["Initech"],
        campaigns: [
          { tenant: "Initech", name: "Sales" },
          { tenant: "Acme", name: "Autumn" },
        ],
      },
      bad: [{ line: 4 }],
    })
  })

  it("a number that keeps an archived carrier makes none", () => {
    const kept = knowing(knownNumber(one, { carrier: "Gone", type: "local" }))
    expect(plan([line(2, one, { target: "agent" })], kept, true)).toMatchObject({
      create: { carriers: [] },
      change: [{ changes: [{ field: "target", was: null, will: "agent" }] }],
    })
  })

  it("an archived carrier stays archived", () => {
    expect(plan([line(2, one, { carrier: "Gone" })], knowing(), true)).toMatchObject({
      create: { carriers: [] },
      bad: [{ line: 2 }],
    })
  })
})

it("names that nobody knows cost no time, however many there are", () => {
  const known = {
    ...knowing(),
    carriers: new Set(Array.from({ length: 5_000 }, (_, index) => `Carrier ${index}`)),
  }
  const rows = Array.from({ length: 50_000 }, (_, index) =>
    line(index + 2, `+1202${5_550_000 + index}`, { carrier: `Karrier ${index}` }),
  )
  const begun = performance.now()
  const { bad } = plan(rows, known)
  expect(performance.now() - begun).toBeLessThan(15_000)
  expect(bad).toHaveLength(50_000)
  expect(bad[7]?.remedy).toContain('Did you mean "Carrier 7"?')
})

describe("the type of a number", () => {
  it.each([
    ["+12025550123", "local"],
    ["+442079460000", "local"],
    ["+447400123456", "mobile"],
    ["+18005551234", "toll-free"],
    ["+443301234567", "national"],
    ["+15557654321", undefined],
  ])("%s is %s", (number, type) => {
    expect(numberTypeOf(number)).toBe(type)
  })
})
