// Stage 9: the number decides who answers. Never fails: a number that nobody knows is answered by default.

import { Effect } from "effect"
import type { CallAttributes } from "../calls/call.ts"
import type { Decision } from "../routing/decision.ts"
import { Routing } from "../routing/routing.ts"

/** Who is to answer a call with these attributes. */
export const route = (attributes: CallAttributes): Effect.Effect<Decision, never, Routing> =>
  Effect.flatMap(Routing, (routing) =>
    routing.decide({
      from: attributes.callerNumber,
      to: attributes.dialedNumber,
      trunkId: attributes.trunkId,
    }),
  )
