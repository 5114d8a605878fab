// What kind of number it is, as far as its numbering plan tells.

import { type PhoneNumberType, parsePhoneNumberFromString } from "libphonenumber-js/max"

export const numberTypes = ["local", "mobile", "national", "toll-free"] as const
export type NumberType = (typeof numberTypes)[number]

const kinds: Partial<Record<PhoneNumberType, NumberType>> = {
  // In North America nothing in a number says that it is a mobile one.
  FIXED_LINE_OR_MOBILE: "local",
  FIXED_LINE: "local",
  MOBILE: "mobile",
  TOLL_FREE: "toll-free",
  UAN: "national",
  VOIP: "national",
  SHARED_COST: "national",
}

/** Of an E.164 number; `undefined` where its plan does not say, or has no such number. */
export const numberTypeOf = (number: string): NumberType | undefined => {
  const type = parsePhoneNumberFromString(number)?.getType()
  return type === undefined ? undefined : kinds[type]
}
