// Stage 9: the healthiest worker, from memory. Finding none is not the end yet: a call that the ledger knows
// gets the ledger's answer, and a new one is claimed without a worker.

import { Effect, type Result } from "effect"
import { Fleet, type NoFleet, type NoHealthyFleet, type Selected } from "../fleet/fleet.ts"

/** A worker with a place kept on it, or why there is none. */
export type Selection = Result.Result<Selected, NoFleet | NoHealthyFleet>

export const selectWorker: Effect.Effect<Selection, never, Fleet> = Effect.flatMap(Fleet, (fleet) =>
  Effect.result(fleet.select()),
)
