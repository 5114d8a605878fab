// THE pipeline: what becomes of a webhook, stage by stage, in the order of the README's table.

import { Effect } from "effect"
import type { TrunkDirectory } from "../carriers/trunk-directory.ts"
import type { Settings } from "../config.ts"
import type { DatabaseError } from "../database/errors.ts"
import type { Fleet } from "../fleet/fleet.ts"
import type { WorkerClient } from "../fleet/worker-client.ts"
import { countEvent, countReplay, timed } from "../metrics.ts"
import type { InvalidPayload } from "../webhook/event.ts"
import type { Keys } from "../webhook/keys.ts"
import type { InvalidSignature, MissingAuth } from "../webhook/signature.ts"
import { authenticate, type SignedRequest } from "./authenticate.ts"
import { type Call, callKey } from "./call.ts"
import type { Replay } from "./claim.ts"
import { didFallback } from "./did-fallback.ts"
import { extractAttributes } from "./extract-attributes.ts"
import { filterEvent } from "./filter-event.ts"
import { filterLeg } from "./filter-leg.ts"
import { filterParticipant } from "./filter-participant.ts"
import { filterRoom } from "./filter-room.ts"
import { type HandedOver, type HandOverError, handOver } from "./hand-over.ts"
import type { Ignored } from "./ignored.ts"
import type { InFlight } from "./in-flight.ts"
import type { Ledger } from "./ledger.ts"
import { record } from "./record.ts"

/** Every way in which a webhook can end without a worker's or the ledger's answer. */
export type PipelineError =
  | MissingAuth
  | InvalidSignature
  | InvalidPayload
  | Ignored
  | HandOverError
  | DatabaseError

/** The answer of a worker or of the ledger; `replayed` where this delivery handed nothing over itself. */
export interface Dispatched {
  readonly end: HandedOver | Replay
  readonly replayed: boolean
}

export type PipelineNeeds = Keys | Settings | TrunkDirectory | Fleet | WorkerClient | Ledger | InFlight

const dispatchCall = Effect.fnUntraced(function* (
  call: Call,
): Effect.fn.Return<Dispatched, HandOverError, PipelineNeeds> {
  const { shared, value: end } = yield* handOver(call)
  const replayed = shared || end._tag !== "HandedOver"
  if (replayed) yield* countReplay(shared ? "InFlightHere" : end._tag)
  return { end, replayed }
})

/** Verifies, records, filters, extracts, selects, claims, relays. */
export const dispatch = Effect.fnUntraced(function* (
  request: SignedRequest,
): Effect.fn.Return<Dispatched, PipelineError, PipelineNeeds> {
  let name: string | undefined
  const stages = Effect.gen(function* () {
    const event = yield* timed("authenticate")(authenticate(request))
    name = event.event
    yield* timed("record")(record(event))
    const joined = yield* filterEvent(event)
    const sip = yield* filterParticipant(joined)
    const inRoom = yield* filterRoom(sip)
    const leg = yield* filterLeg(inRoom)
    const attributes = yield* didFallback(extractAttributes(leg))
    const call: Call = { ...attributes, key: callKey(leg), leg }
    return yield* Effect.annotateLogs(dispatchCall(call), "call_id", call.callId || call.key)
  })
  return yield* stages.pipe(
    Effect.tap(({ replayed }) => countEvent(name, replayed ? "Replayed" : "HandedOver")),
    Effect.tapError((error) => countEvent(name, error._tag)),
  )
})
