// Phone numbers in whatever form they come, as E.164: the one form in which they are stored and compared.

import { type CountryCode, parsePhoneNumberFromString } from "libphonenumber-js/min"
import { Bounded } from "../bounded.ts"

// Nothing longer is a number with all that may stand around it, and hostile text must not cost time.
const longestText = 512
const longestNumber = 64

// Fewer digits are an extension or a short code, although some numbering plans would let them pass.
const shortestNational = 6

// As the column's CHECK has it.
const e164 = /^\+[1-9][0-9]{1,14}$/

// Most numbers come like this, and no rule of the numbering plan can change one of them.
const northAmerican = /^\+1[0-9]{10}$/

const internationalPrefix = /^\(?(?:00|011)\)?[ .-]*(?=[1-9])/

type Parsed = NonNullable<ReturnType<typeof parsePhoneNumberFromString>>

/** The number that a text is, of a length that its plan has: invented numbers are in no plan, but in use. */
const parsed = (text: string, region?: CountryCode): Parsed | undefined => {
  const options = region === undefined ? { extract: false } : { extract: false, defaultCountry: region }
  const found = parsePhoneNumberFromString(text, options)
  return found?.isPossible() === true && e164.test(found.number) ? found : undefined
}

/**
 * The form in which a number stays when it is read again. Parsing drops one trunk prefix at a time, and a
 * number that was looked up in one form must not be stored in another.
 */
const settled = (number: string | undefined): string | undefined => {
  let current = number
  for (let round = 0; round < 4 && current !== undefined; round++) {
    if (northAmerican.test(current)) return current
    const next = parsed(current)?.number
    if (next === current) return current
    current = next
  }
  return undefined
}

const digitsOf = (text: string) => text.replace(/\D/g, "")

/** With its `+` missing, too, a number of nine digits is as likely a local one without its area code. */
const withoutPlus = (text: string) => {
  const found = /^[1-9]/.test(text) ? parsed(`+${text}`) : undefined
  return found !== undefined && found.number.length > 10 ? found : undefined
}

/** A number from abroad: after an international prefix, whichever region's it is. */
const fromAbroad = (text: string, region: CountryCode): Parsed | undefined => {
  const own = parsed(text, region)
  const plain = parsed(text.replace(internationalPrefix, "+"))
  if (own === undefined || own.nationalNumber.length < shortestNational) return plain
  // No numbering plan has numbers that begin with 00 or, after its trunk prefix, with 0.
  if (text.startsWith("00") && own.nationalNumber.startsWith("0")) return plain
  // Some regions have prefixes of their own that begin with 00 and go on with a carrier's digits.
  return plain?.isValid() === true && !own.isValid() ? plain : own
}

const fromHere = (text: string, region: CountryCode): Parsed | undefined => {
  const own = parsed(text, region)
  const foreign = withoutPlus(text)
  if (own === undefined || own.nationalNumber.length < shortestNational) return foreign
  // In Germany 49 is a country code and begins area codes, which are never written without their 0, though.
  const misread =
    foreign?.countryCallingCode === own.countryCallingCode &&
    foreign.number.length > 11 &&
    foreign.isValid() &&
    digitsOf(own.formatNational()) !== digitsOf(text)
  return misread ? foreign : own
}

const read = (text: string, region: CountryCode): Parsed | undefined => {
  if (text.startsWith("+")) return parsed(text)
  return internationalPrefix.test(text) ? fromAbroad(text, region) : fromHere(text, region)
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** Of a SIP address only its user: a name beside it and the digits of a host are no number. */
const userOf = (raw: string): string => {
  const open = raw.lastIndexOf("<")
  const close = raw.indexOf(">", open)
  const uri = (open < 0 ? raw : raw.slice(open + 1, close < 0 ? undefined : close)).trim()
  const address = uri.replace(/^(?:sips?|tel):/i, "")
  const at = address.indexOf("@")
  // What stands after a colon is a password.
  if (at >= 0) return address.slice(0, at).replace(/:.*/s, "")
  if (!/^sip/i.test(uri)) return address
  // Without a user this is a host, but for one of nothing but digits, which no host is.
  const alone = address.replace(/[:;?].*/s, "")
  return /^(?:\+|%2b)?[0-9]+$/i.test(alone) ? alone : ""
}

const dialString = (raw: string): string => {
  // Full-width digits and signs become plain ones.
  const user = decoded(userOf(raw)).normalize("NFKC")
  const number = user
    .replace(/[;?].*/s, "")
    // Marks of the direction of writing come along when a number is copied from an address book.
    .replace(/\p{Cf}/gu, "")
    .trim()
    .replace(/^[ (]+(?=\+)/, "")
  const context = /;phone-context=(\+[0-9]+)/i.exec(user)?.[1]
  return context === undefined || number.startsWith("+") || internationalPrefix.test(number)
    ? number
    : context + number
}

const find = (raw: string, region: CountryCode) => {
  const text = dialString(raw)
  return text === "" || text.length > longestNumber ? undefined : settled(read(text, region)?.number)
}

// Reading a number takes 20 to 60 µs, and each comes with several events of its call.
const remembered = new Bounded<string | undefined>(5_000)

/**
 * The E.164 form of a phone number, however it is written: national, international, as a SIP or tel URI, with
 * an extension, which is dropped. `undefined` for what is no full number: names, short codes, letters.
 *
 * @example
 * toE164("(858) 879-6658", "US") // "+18588796658"
 * toE164("sip:011442079460000@198.51.100.7", "US") // "+442079460000"
 * toE164("anonymous", "US") // undefined
 */
export const toE164 = (raw: string, region: CountryCode): string | undefined => {
  if (northAmerican.test(raw)) return raw
  if (raw.length > longestText) return undefined
  const key = region + raw
  const known = remembered.get(key)
  if (known !== undefined || remembered.has(key)) return known
  const number = find(raw, region)
  remembered.put(key, number)
  return number
}
