// Stage 8: a dialed number that LiveKit hides is the first DID of the carrier whose trunk the call came in on.

import { Effect } from "effect"
import type { CallAttributes } from "../calls/call.ts"
import { TrunkDirectory } from "../carriers/trunk-directory.ts"

/** Fills an empty dialed number where the trunk's carrier has a DID; the call goes on either way. */
export const didFallback = (
  attributes: CallAttributes,
): Effect.Effect<CallAttributes, never, TrunkDirectory> =>
  attributes.dialedNumber !== "" || attributes.trunkId === ""
    ? Effect.succeed(attributes)
    : Effect.map(TrunkDirectory, (trunks) => ({
        ...attributes,
        dialedNumber: trunks.firstDidOf(attributes.trunkId) ?? "",
      }))
