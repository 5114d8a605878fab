// Properties and examples of phone numbers: every way to write one is read, and nothing else passes for one.

import * as fc from "fast-check"
import examples from "libphonenumber-js/examples.mobile.json" with { type: "json" }
import { type CountryCode, getCountries, getExampleNumber } from "libphonenumber-js/min"
import { describe, expect, it } from "vitest"
import { toE164 } from "../../src/routing/numbers.ts"
import { cases } from "../support/properties.ts"

const regions = fc.constantFrom(...getCountries())

// As the CHECK of `dids.number` has it.
const column = /^\+[1-9][0-9]{1,14}$/

const digits = (length: number) =>
  fc.string({ unit: fc.constantFrom(..."0123456789"), minLength: length, maxLength: length })

/** Numbers like +1 555 000 1113: none of them need be assigned, nor ever be. */
const northAmerican = fc
  .tuple(fc.constantFrom(..."23456789"), digits(2), digits(3), digits(4))
  .map(([first, rest, exchange, line]) => ({ area: first + rest, exchange, line }))

interface Parts {
  readonly area: string
  readonly exchange: string
  readonly line: string
}

const international = ({ area, exchange, line }: Parts) => [
  `+1${area}${exchange}${line}`,
  `+1 ${area} ${exchange} ${line}`,
  `+1 (${area}) ${exchange}-${line}`,
  `+1-${area}-${exchange}-${line}`,
  `+1.${area}.${exchange}.${line}`,
  `(+1) ${area} ${exchange} ${line}`,
  `＋1${area}${exchange}${line}`,
  `\u202a+1 ${area} ${exchange} ${line}\u202c`,
  `001${area}${exchange}${line}`,
  `00 1 ${area} ${exchange} ${line}`,
  `001-${area}-${exchange}-${line}`,
  `0111${area}${exchange}${line}`,
  `011 1 ${area} ${exchange} ${line}`,
  `(011) 1 ${area} ${exchange}-${line}`,
]

const national = ({ area, exchange, line }: Parts) => [
  `${area}${exchange}${line}`,
  `(${area}) ${exchange}-${line}`,
  `${area}-${exchange}-${line}`,
  `${area} ${exchange} ${line}`,
  `${area}.${exchange}.${line}`,
  `1${area}${exchange}${line}`,
  `1-${area}-${exchange}-${line}`,
  `1 (${area}) ${exchange}-${line}`,
]

const around: ReadonlyArray<(number: string) => string> = [
  (number) => number,
  (number) => `  ${number}\t`,
  (number) => `${number} x12`,
  (number) => `${number} ext. 12`,
  (number) => `${number};ext=12`,
  (number) => `tel:${number}`,
  (number) => `TEL:${number};ext=12`,
  (number) => `sip:${number}@10.20.30.40`,
  (number) => `sip:${number}@10.20.30.40:5060;transport=udp`,
  (number) => `sip:${number};cpc=ordinary@example.com;user=phone`,
  (number) => `sip:${number}:password@example.com`,
  (number) => `sips:${encodeURIComponent(number)}@example.com`,
  (number) => `<sip:${number}@[2001:db8::1]>`,
  (number) => `"Alice <4711> & sons" <sip:${number}@example.com>;tag=15550009999`,
  (number) => `Alice <tel:${number}>`,
  (number) => `${number}@10.20.30.40`,
]

describe("a phone number", () => {
  it.each<[string, CountryCode, string]>([
    ["+15550001113", "US", "+15550001113"],
    ["+18885550100", "DE", "+18885550100"],
    ["(858) 879-6658", "US", "+18588796658"],
    ["15551234567", "US", "+15551234567"],
    ["15551234567", "GB", "+15551234567"],
    ["5551234567", "US", "+15551234567"],
    ["sip:15551234567", "US", "+15551234567"],
    ["sip:%2B15551234567;transport=tcp", "US", "+15551234567"],
    ["442079460000", "US", "+442079460000"],
    ["020 7946 0000", "GB", "+442079460000"],
    ["+44 (0)20 7946 0000", "US", "+442079460000"],
    ["0044 20 7946 0000", "US", "+442079460000"],
    ["0049301234", "US", "+49301234"],
    ["tel:2079460000;phone-context=+44", "US", "+442079460000"],
    ["tel:858-879-6658;phone-context=example.com", "US", "+18588796658"],
    ["030 123456", "DE", "+4930123456"],
    ["4930123456", "DE", "+4930123456"],
    ["49221123456", "DE", "+49221123456"],
    ["4915123456789", "DE", "+4915123456789"],
    ["04922 112345", "DE", "+494922112345"],
    ["06 1234 5678", "IT", "+390612345678"],
    ["00551155256325", "BR", "+551155256325"],
    ["001 1 617 555 1234", "KR", "+16175551234"],
    ["٠٣٠ ١٢٣٤٥٦", "DE", "+4930123456"],
  ])("%j in %s is %s", (text, region, number) => {
    expect(toE164(text, region)).toBe(number)
  })

  it("is found in every form it is written in, with whatever stands around it", () => {
    fc.assert(
      fc.property(northAmerican, (parts) => {
        const number = `+1${parts.area}${parts.exchange}${parts.line}`
        for (const written of [...international(parts), ...national(parts)]) {
          for (const wrap of around) expect(toE164(wrap(written), "US"), wrap(written)).toBe(number)
        }
      }),
      { ...cases, numRuns: 100 },
    )
  })

  it("is the same in every region where it carries its country code", () => {
    fc.assert(
      fc.property(northAmerican, regions, (parts, region) => {
        const number = `+1${parts.area}${parts.exchange}${parts.line}`
        for (const written of international(parts).filter((text) => /[+＋]/.test(text))) {
          expect(toE164(written, region)).toBe(number)
        }
      }),
      cases,
    )
  })

  it("is found in the international and the national form of every country", () => {
    // A few islands whose whole numbers are as short as an extension elsewhere.
    const tiny: ReadonlyArray<CountryCode> = ["AC", "CK", "FK", "SH", "TA", "TK"]
    for (const country of getCountries()) {
      const example = getExampleNumber(country, examples)
      if (example === undefined) continue
      const { number } = example
      const rest = number.slice(1)
      for (const text of [number, example.formatInternational(), example.getURI(), `00${rest}`, `011${rest}`])
        expect(toE164(text, "US"), text).toBe(number)
      if (tiny.includes(country)) continue
      for (const text of [example.formatNational(), example.nationalNumber, rest]) {
        expect(toE164(text, country), `${text} in ${country}`).toBe(number)
      }
    }
  })
})

describe("no phone number", () => {
  it.each([
    "",
    " ",
    "+",
    "0",
    "911",
    "112",
    "12345",
    "+12345",
    "1001",
    "anonymous",
    "restricted",
    "Restricted",
    "unknown",
    "unavailable",
    "alice",
    "alice.b-c",
    "1-800-FLOWERS",
    "call 858 879 6658",
    "7a8e1bad42416f9a",
    "0123456789abcdef",
    "8123456789012345",
    "sip_15551234567",
    "sip:alice@10.20.30.40",
    "sip:10.20.30.40",
    "sip:10.20.30.40:5060",
    "sips:15551234567.example.com",
    "sip:alice@15551234567",
    '"+15551234567" <sip:anonymous@anonymous.invalid>',
    "+1555123456789012",
    "+155512345678901234567890",
    "+0015551234567",
    "+999123456789",
    "+1555\u00001234567",
    "+15551234567\u0000",
    "\ud800",
    "+1555123456\udfff",
    "%",
    "%2",
    "%%%2B",
    "%252B15551234567",
    "15551234567,15557654321",
    "15551234567 15557654321",
  ])("is %j", (text) => {
    expect(["US", "DE"].map((region) => toE164(text, region as CountryCode))).toEqual([undefined, undefined])
  })

  it.each(["1", "+1", " ", ",", "(", "%2B", "\u0000", "\ud800", "+15551234567;", "<"])(
    "is a megabyte of %j",
    (text) => {
      expect(toE164(text.repeat(1_000_000 / text.length), "US")).toBeUndefined()
    },
  )
})

describe("any text", () => {
  const texts = fc.oneof(
    fc.string({ unit: "binary", maxLength: 200 }),
    fc.string({ unit: fc.constantFrom(..."0123456789"), maxLength: 20 }),
    fc.string({
      unit: fc.constantFrom(
        ...'0123456789+ ()-./;:,@<>"%x#~*=\u0000\ud800\udc00\u200b٣＋',
        "sip:",
        "ext",
        "%2B",
        "00",
        "011",
      ),
      maxLength: 80,
    }),
    digits(12).map((rest) => `+${rest}`),
    fc.bigInt({ min: 1n, max: 10n ** 15n - 1n }).map((number) => `+${number}`),
  )

  it("is a number as the database takes it, or none, and never an error", () => {
    let numbers = 0
    fc.assert(
      fc.property(texts, regions, (text, region) => {
        const number = toE164(text, region)
        if (number === undefined) return
        numbers++
        expect(number).toMatch(column)
      }),
      cases,
    )
    expect(numbers).toBeGreaterThan(100)
  })

  it("gives a number that stays what it is in every region", () => {
    fc.assert(
      fc.property(texts, regions, regions, (text, region, elsewhere) => {
        const number = toE164(text, region)
        if (number !== undefined) expect(toE164(number, elsewhere)).toBe(number)
      }),
      cases,
    )
  })

  it("is read alike the second time, also after thousands of others", () => {
    const first = toE164("(858) 879-6658", "US")
    for (let number = 2_000_000; number < 2_012_000; number++) toE164(`(858) ${number}`, "US")
    expect(toE164("(858) 879-6658", "US")).toBe(first)
    expect(toE164("(858) 879-6658", "GB")).not.toBe(first)
  })
})
