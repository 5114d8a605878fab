// What a log may show of a phone number: its last four digits.

const written = /\+?\d(?:[\s().-]{0,2}\d){6,}/g
const run = /\+?\d{7,}/g

const lastFour = (digits: string) => `…${digits.replace(/\D/g, "").slice(-4)}`

/** One caller or dialed number, in any form, as a log shows it: `…4567`; the empty string stays empty. */
export const maskNumber = (number: string): string => {
  const digits = number.replace(/\D/g, "")
  if (digits.length > 4) return lastFour(digits)
  return number === "" ? "" : `…${number.slice(-4)}`
}

/** A name that a caller's number may be part of (a room, an identity), however the number is written. */
export const maskName = (name: string): string => name.replace(written, lastFour)

/** Any other text, where addresses and dates must stay readable: runs of seven digits and more are masked. */
export const maskText = (text: string): string => text.replace(run, lastFour)

// Ids are looked up by what the log says, so those that cannot be a number stay whole.
const plainId =
  /^(?:[A-Z]{2,4}_\w+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|sha256:[0-9a-f]{64})$/

/** A call's or row's id: whole, unless it could hold a phone number. */
export const maskId = (id: string): string => (plainId.test(id) ? id : maskName(id))
