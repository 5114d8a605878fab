// Phone numbers from Twilio: what its API answers for IncomingPhoneNumbers, page after page, or what its command
// line prints with `-o json`.

import { Predicate } from "effect"
import { type NumberType, numberTypes } from "../../routing/number-type.ts"
import { badLine, type Entry, FileRefused, type Item, printable } from "./entry.ts"
import { type Place, valuesFrom } from "./json-sequence.ts"

// A key, never a text: no text is followed by a colon, and the quotes inside of one are escaped.
const listKey = /"incoming_phone_numbers"\s*:\s*\[/

const expected =
  'Expected what Twilio answers to GET …/IncomingPhoneNumbers.json ({"incoming_phone_numbers": [...]}), or the list alone.'

const parse = (text: string, { end, line, start }: Place): unknown => {
  try {
    return JSON.parse(text.slice(start, end))
  } catch (error) {
    const message = `The value that begins on line ${line} is no JSON (${printable((error as Error).message)}). Is the file whole?`
    throw new FileRefused({ message })
  }
}

// The API writes phone_number, the command line phoneNumber.
const either = (value: object, snake: string, camel: string): unknown =>
  Predicate.hasProperty(value, snake)
    ? value[snake]
    : Predicate.hasProperty(value, camel)
      ? value[camel]
      : undefined

const isPage = (value: unknown): value is { readonly incoming_phone_numbers: ReadonlyArray<unknown> } =>
  Predicate.hasProperty(value, "incoming_phone_numbers") && Array.isArray(value.incoming_phone_numbers)

const typeOf = (value: object): NumberType | undefined => {
  const said = String(either(value, "type", "type"))
    .toLowerCase()
    .replaceAll(/[-_ ]/g, "")
  return numberTypes.find((type) => type.replace("-", "") === said)
}

const takesCalls = (value: object): boolean => {
  if (either(value, "voice_receive_mode", "voiceReceiveMode") === "fax") return false
  const capabilities = either(value, "capabilities", "capabilities")
  return !(Predicate.hasProperty(capabilities, "voice") && capabilities.voice === false)
}

const saysNothing: Entry["fields"] = {
  carrier: undefined,
  tenant: undefined,
  campaign: undefined,
  target: undefined,
}

const itemOf = (value: unknown, line: number): Item => {
  const number = Predicate.isObject(value) ? either(value, "phone_number", "phoneNumber") : undefined
  if (!Predicate.isObject(value) || typeof number !== "string") {
    const text = JSON.stringify(value) ?? ""
    return badLine(
      line,
      text,
      "no phone_number",
      "Export the numbers from Twilio again, or remove this entry.",
    )
  }
  if (!takesCalls(value)) return { _tag: "LeftOut", line, number, why: "Twilio takes no calls on it" }
  return { _tag: "Entry", line, number, fields: saysNothing, type: typeOf(value) }
}

/** The items of a list that has been read, each with the line on which it begins. */
const itemsOf = function* (items: ReadonlyArray<unknown>, text: string, from: number, line: number) {
  let index = 0
  for (const place of valuesFrom(text, from, line)) yield { item: items[index++], place }
}

const breaksIn = (text: string) => text.split("\n").length - 1

const entriesOf = function* (
  text: string,
  place: Place,
  value: unknown,
  pages: Array<unknown>,
): Generator<Item> {
  if (isPage(value)) {
    pages.push(either(value, "next_page_uri", "nextPageUri"))
    const own = text.slice(place.start, place.end)
    const key = listKey.exec(own)
    const from = key === null ? own.length : key.index + key[0].length
    const line = place.line + breaksIn(own.slice(0, from))
    for (const { item, place: at } of itemsOf(value.incoming_phone_numbers, own, from, line))
      yield itemOf(item, at.line)
  } else if (Array.isArray(value)) {
    for (const { item, place: at } of itemsOf(value, text, place.start + 1, place.line)) {
      if (isPage(item)) yield* entriesOf(text, at, item, pages)
      else yield itemOf(item, at.line)
    }
  } else if (Predicate.isObject(value) && either(value, "phone_number", "phoneNumber") !== undefined) {
    yield itemOf(value, place.line)
  } else {
    const message = `The value that begins on line ${place.line} holds no phone numbers. ${expected}`
    throw new FileRefused({ message })
  }
}

/** Throws `FileRefused` where the file is not from Twilio. */
export const twilioEntries = function* (text: string): Generator<Item> {
  // What each page says is the address of the next.
  const pages: Array<unknown> = []
  let values = 0
  for (const place of valuesFrom(text, 0, 1)) {
    values++
    yield* entriesOf(text, place, parse(text, place), pages)
  }
  if (values === 0) throw new FileRefused({ message: `The file holds no JSON value. ${expected}` })
  if (pages.length > 0 && pages.every((next) => Boolean(next)))
    yield {
      _tag: "Note",
      text: "The last page is missing: Twilio has more numbers than this file (see next_page_uri). Ask for ?PageSize=1000, and put all pages into one file, one after the other.",
    }
}
