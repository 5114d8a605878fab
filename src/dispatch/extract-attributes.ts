// Stage 7: who calls whom, as LiveKit says it; nothing is normalised, because the worker gets it as it came.

import type { CallAttributes, LegEvent } from "../calls/call.ts"

// LiveKit names the caller's identity `sip_` and the From user; a hidden caller's is `sip_` and 16 hex digits.
const identityNumber = /^sip[_-](\+?\d[\d\s().-]*)$/
const hiddenCaller = /^sip[_-][0-9a-f]{16}$/

const numberInIdentity = (identity: string) =>
  hiddenCaller.test(identity) ? "" : (identityNumber.exec(identity)?.[1] ?? "")

/** The call's attributes; whatever is missing is the empty string. */
export const extractAttributes = ({ participant }: LegEvent): CallAttributes => {
  const attribute = (name: string) => participant.attributes.get(name) ?? ""
  return {
    callerNumber: attribute("sip.phoneNumber") || numberInIdentity(participant.identity),
    dialedNumber: attribute("sip.calledNumber") || attribute("sip.trunkPhoneNumber"),
    trunkId: attribute("sip.trunkID"),
    callId: attribute("sip.callID"),
  }
}
