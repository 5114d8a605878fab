// That a log shows of a phone number its last four digits, wherever and however it is written, and ids whole.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { maskId, maskName, maskNumber, maskText } from "../src/masking.ts"
import { cases } from "./support/properties.ts"

const digit = fc.constantFrom(..."0123456789")
const number = fc.string({ unit: digit, minLength: 7, maxLength: 20 })
const plus = fc.constantFrom("", "+")
const withoutDigits = fc
  .string({ unit: "binary" })
  .map((text) => text.replace(/[\d]/g, "x"))
  .filter((text) => !text.endsWith("+"))

// As people and carriers write: groups with spaces, dots, hyphens and brackets between them.
const separators = fc.constantFrom("", " ", "-", ".", "(", ")", ") ", " (", "--", ". ")
const writtenNumber = fc
  .array(fc.tuple(digit, separators), { minLength: 7, maxLength: 15 })
  .map((parts) => parts.map(([digit, separator], at) => (at === 0 ? digit : separator + digit)).join(""))

const digitsOf = (text: string) => text.replace(/\D/g, "")

describe("a number in a text", () => {
  it("is shown by its last four digits, and the text around it as it is", () => {
    fc.assert(
      fc.property(withoutDigits, plus, number, withoutDigits, (before, plus, number, after) => {
        expect(maskText(`${before}${plus}${number}${after}`)).toBe(`${before}…${number.slice(-4)}${after}`)
      }),
      cases,
    )
  })

  it("is never there whole, however many there are and whatever stands between them", () => {
    const piece = fc.oneof(
      number,
      fc.string({ unit: "binary" }),
      digit,
      fc.constantFrom("+", "-", "…", "_", " "),
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const masked = maskText(pieces.join(""))
        expect(masked).not.toMatch(/\d{7}/)
        expect(maskText(masked)).toBe(masked)
      }),
      cases,
    )
  })

  it.each([
    ["Calling +15551234567 now", "Calling …4567 now"],
    ["sip:+15551234567@10.0.0.7:5060", "sip:…4567@10.0.0.7:5060"],
    ["call-_+15551234567_AbCdEfGhIjKl", "call-_…4567_AbCdEfGhIjKl"],
    ["15551234567,15557654321", "…4567,…4321"],
    ["", ""],
  ])("%j becomes %j", (text, masked) => {
    expect(maskText(text)).toBe(masked)
  })

  it.each([
    "2026-11-21 12:34:56.789",
    "http://10.120.130.140:18080/health",
    "answers 503 after 10000 ms",
    "took 123456 µs",
  ])("is not seen where there is none: %j", (text) => {
    expect(maskText(text)).toBe(text)
  })
})

describe("a number in the name of a room or participant", () => {
  it("is shown by its last four digits, however it is written", () => {
    fc.assert(
      fc.property(withoutDigits, plus, writtenNumber, withoutDigits, (before, plus, number, after) => {
        const masked = maskName(`${before}${plus}${number}${after}`)
        expect(masked).toBe(`${before}…${digitsOf(number).slice(-4)}${after}`)
      }),
      cases,
    )
  })

  it("never shows more than four of its digits in a row of a LiveKit room", () => {
    const letters = fc.string({
      unit: fc.constantFrom(..."abcdefghijABCDEFGHIJ"),
      minLength: 12,
      maxLength: 12,
    })
    fc.assert(
      fc.property(plus, number, letters, (plus, number, letters) => {
        expect(maskName(`call-_${plus}${number}_${letters}`)).toBe(`call-_…${number.slice(-4)}_${letters}`)
        expect(maskName(`sip_${plus}${number}`)).toBe(`sip_…${number.slice(-4)}`)
      }),
      cases,
    )
  })

  it.each([
    ["call-_+1 (555) 123-4567_x", "call-_…4567_x"],
    ["sip_555.123.4567", "sip_…4567"],
    ["call-_1111_W9qeVdZsGBAB", "call-_1111_W9qeVdZsGBAB"],
    ["sip_anonymous", "sip_anonymous"],
  ])("%j becomes %j", (name, masked) => {
    expect(maskName(name)).toBe(masked)
  })
})

describe("a caller or dialed number", () => {
  it("is shown by its last four digits in whatever form, and stays empty where there is none", () => {
    expect(maskNumber("")).toBe("")
    fc.assert(
      fc.property(plus, writtenNumber, (plus, number) => {
        expect(maskNumber(plus + number)).toBe(`…${digitsOf(number).slice(-4)}`)
      }),
      cases,
    )
  })

  it("never shows more than four characters, whatever it is", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), number), (number) => {
        const masked = maskNumber(number)
        expect(masked.length).toBeLessThanOrEqual(5)
        if (number !== "") expect(masked).toMatch(/^…/)
      }),
      cases,
    )
  })
})

describe("an id", () => {
  it("of LiveKit stays whole, also where it has many digits", () => {
    const id = fc.string({ unit: fc.constantFrom(..."abcXYZ0123456789"), minLength: 1, maxLength: 16 })
    fc.assert(
      fc.property(fc.constantFrom("SCL_", "EV_", "RM_", "PA_", "ST_", "SDR_"), id, (prefix, id) => {
        expect(maskId(prefix + id)).toBe(prefix + id)
      }),
      cases,
    )
  })

  it("that is a uuid stays whole, also where it has digits only", () => {
    fc.assert(
      fc.property(fc.uuid(), (uuid) => {
        expect(maskId(uuid)).toBe(uuid)
        const inDigits = uuid.replace(/[a-f]/g, "7")
        expect(maskId(inDigits)).toBe(inDigits)
      }),
      cases,
    )
  })

  it("that is the hash of a call key stays whole", () => {
    const key = `sha256:${"0123456789abcdef".repeat(4)}`
    expect(maskId(key)).toBe(key)
  })

  it("that any sender could have made of a number is masked", () => {
    fc.assert(
      fc.property(fc.constantFrom("", "call-", "sip:", "scl_", "id "), number, (prefix, number) => {
        expect(maskId(prefix + number)).toBe(`${prefix}…${number.slice(-4)}`)
      }),
      cases,
    )
    expect(maskId("1-9799@127.0.0.1")).toBe("1-9799@127.0.0.1")
    expect(maskId("+1 555 123 4567")).toBe("…4567")
    expect(maskId("SCL_9f; tel:+15551234567")).toBe("SCL_9f; tel:…4567")
  })
})
