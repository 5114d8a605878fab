// This machine's clock against LiveKit's: signatures are good for a minute more or less, and no longer.

import { type Finding, findingsAbout } from "./finding.ts"
import type { Clocks } from "./look-at-livekit.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Clock")

const worthTellingMs = 5_000
// What LiveKit allows, and what we do.
const toleratedMs = 60_000

/**
 * How far ours is ahead, in ms; 0 where both may be the same. LiveKit's has no fraction of a second, and its
 * answer was on its way for a while.
 */
export const aheadBy = ({ answeredAt, askedAt, theirs }: Clocks): number => {
  if (askedAt > theirs + 1_000) return askedAt - (theirs + 1_000)
  return answeredAt < theirs ? answeredAt - theirs : 0
}

export const checkClock = ({ livekit }: World): ReadonlyArray<Finding> => {
  if (livekit.kind !== "answers") return []
  if (livekit.clocks === undefined) {
    return [
      warning("LiveKit does not say what time it is", {
        why: "Beyond a minute of difference every webhook is refused as expired or not yet valid.",
        fix: "Compare the clocks by hand: date -u, on both machines.",
      }),
    ]
  }
  const ahead = aheadBy(livekit.clocks)
  const off = Math.abs(ahead)
  const what = `This clock is ${(off / 1_000).toFixed(0)} s ${ahead > 0 ? "ahead of" : "behind"} LiveKit's`
  const fix =
    "Let a time server set the clock: timedatectl set-ntp true (or chrony), here and where LiveKit runs."
  if (off > toleratedMs) {
    const why =
      "A signature is good for 60 s of difference: every webhook is refused with 401, and lost for good."
    return [error(what, { why, fix })]
  }
  if (off > worthTellingMs) {
    const why = "Beyond 60 s every webhook would be refused, and ring times are wrong by this much already."
    return [warning(what, { why, fix })]
  }
  return [ok("This clock and LiveKit's agree")]
}
