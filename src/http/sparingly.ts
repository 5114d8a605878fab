// A log line that whoever floods us cannot fill the log with.

import { Effect } from "effect"

const everyMs = 1_000

/** Warns at most once a second; `more` says how often it kept silent since it last spoke. */
export const sparingly = (message: string): ((fields: object) => Effect.Effect<void>) => {
  let last = Number.NEGATIVE_INFINITY
  let unsaid = 0
  return (fields) =>
    Effect.suspend(() => {
      if (performance.now() - last < everyMs) {
        unsaid++
        return Effect.void
      }
      last = performance.now()
      const more = unsaid
      unsaid = 0
      return Effect.logWarning(message, { ...fields, more })
    })
}
