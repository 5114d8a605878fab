// What Twilio's API and command line give, in the ways in which people save it.

import { describe, expect, it } from "vitest"
import { FileRefused } from "../../src/carriers/import/entry.ts"
import { twilioEntries } from "../../src/carriers/import/twilio-entries.ts"

const number = (phone_number: string, more: object = {}) => ({
  account_sid: "ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  sid: "PNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  phone_number,
  friendly_name: '"incoming_phone_numbers": [ {}',
  capabilities: { voice: true, sms: true, mms: false, fax: false },
  subresource_uris: { assigned_add_ons: "/2010-04-01/…/AssignedAddOns.json" },
  voice_receive_mode: "voice",
  status: "in-use",
  type: "local",
  ...more,
})
const page = (numbers: ReadonlyArray<unknown>, next: string | null = null) => ({
  uri: "/2010-04-01/Accounts/AC…/IncomingPhoneNumbers.json?PageSize=2&Page=0",
  incoming_phone_numbers: numbers,
  next_page_uri: next,
})

const pretty = (value: unknown) => JSON.stringify(value, null, 2)
const items = (text: string) => [...twilioEntries(text)]
const numbersIn = (text: string) => items(text).map((item) => ("number" in item ? item.number : item._tag))

const one = number("+15551110001")
const two = number("+15551110002")
const three = number("+15551110003")
const all = ["+15551110001", "+15551110002", "+15551110003"]

describe("the numbers are found", () => {
  it.each([
    ["in one page", JSON.stringify(page([one, two, three]))],
    ["in pages, one after the other", pretty(page([one, two], "/next")) + pretty(page([three]))],
    [
      "in pages, one on each line",
      [page([one], "/n"), page([two, three])].map((p) => JSON.stringify(p)).join("\n"),
    ],
    ["in a list of pages", pretty([page([one, two], "/next"), page([three])])],
    ["in a bare list", pretty([one, two, three])],
    ["one on each line", [one, two, three].map((n) => JSON.stringify(n)).join("\n")],
    [
      "as the command line writes them",
      pretty(all.map((phoneNumber) => ({ phoneNumber, friendlyName: "x" }))),
    ],
  ])("%s", (_, text) => {
    expect(numbersIn(text)).toEqual(all)
  })

  it("in a single number", () => {
    expect(numbersIn(pretty(one))).toEqual(["+15551110001"])
  })

  it("with the line on which each begins", () => {
    const text = `${pretty(page([one, two], "/next"))}\n${pretty([page([three])])}`
    const lines = text.split("\n")
    for (const item of items(text)) {
      if (item._tag !== "Entry") throw new Error(`unexpected ${item._tag}`)
      const at = lines.findIndex((line) => line.includes(`"phone_number": "${item.number}"`))
      expect(lines[item.line - 1]).toMatch(/^ *\{$/)
      expect(lines.slice(item.line, at).some((line) => /^ *\},?$/.test(line))).toBe(false)
    }
  })
})

describe("of a number", () => {
  const only = (value: object) => items(JSON.stringify([value]))[0]

  it.each([
    ["local", "local"],
    ["tollfree", "toll-free"],
    ["toll-free", "toll-free"],
    ["TollFree", "toll-free"],
    ["mobile", "mobile"],
    ["national", "national"],
    ["wireless", undefined],
    [undefined, undefined],
  ])("the type %s is %s", (said, type) => {
    expect(only(number("+15551110001", { type: said }))).toMatchObject({ _tag: "Entry", type })
  })

  it.each([[{ capabilities: { voice: false, sms: true } }], [{ voice_receive_mode: "fax" }]])(
    "that takes no calls is left out: %j",
    (more) => {
      expect(only(number("+15551110001", more))).toMatchObject({
        _tag: "LeftOut",
        why: "Twilio takes no calls on it",
      })
    },
  )

  it.each([[{}], [{ phone_number: 15551110001 }], [null], ["+15551110001"], [[]]])(
    "%j is a bad line",
    (value) => {
      expect(items(JSON.stringify([value]))).toMatchObject([
        { _tag: "BadLine", line: 1, problem: "no phone_number" },
      ])
    },
  )
})

describe("a file", () => {
  it.each([
    ["", "holds no JSON value"],
    [pretty(page([one])).slice(0, -20), "begins on line 1 is no JSON"],
    [`${pretty(one)}\n{`, "Is the file whole?"],
    ['{"code": 20003, "message": "Authenticate", "status": 401}', "holds no phone numbers"],
    ["number,carrier\n", "is no JSON"],
  ])("%j is refused", (text, message) => {
    expect(() => items(text)).toThrow(FileRefused)
    expect(() => items(text)).toThrow(message)
  })

  it("without its last page is taken, with a warning", () => {
    expect(items(pretty(page([one], "/next")))).toMatchObject([
      { _tag: "Entry" },
      { _tag: "Note", text: expect.stringContaining("The last page is missing") },
    ])
  })
})
