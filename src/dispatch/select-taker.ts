// Stage 10: the agent of the number, or the healthiest worker, from memory. Finding none is not the end yet: a
// call that the ledger knows gets the ledger's answer, and a new one is claimed for nobody.

import { Effect, Option, Result } from "effect"
import { Settings } from "../config.ts"
import { type Considered, Fleet, type NoFleet, type NoHealthyFleet, type Seat } from "../fleet/fleet.ts"
import type { Decision } from "../routing/decision.ts"
import type { AgentRef, WorkerRef } from "./taker.ts"

/** A worker with a place kept for the call: whoever does not use the seat must end it. */
export interface AtWorker extends WorkerRef {
  readonly seat: Seat
}

/** Where the call is to go. */
export type Place = AtWorker | AgentRef

/** The place, and which workers were considered for it. */
export interface Selected {
  readonly place: Place
  readonly considered: ReadonlyArray<Considered>
}

/** A place, or why there is none. */
export type Selection = Result.Result<Selected, NoFleet | NoHealthyFleet>

/** The seat as a place of the ledger's. */
export const atWorker = (seat: Seat): AtWorker => ({ kind: "fleet", name: seat.name, url: seat.url, seat })

const fallbackAgent = Effect.map(Settings, ({ fallbackAgent }) =>
  Option.map(fallbackAgent, (name): AgentRef => ({ kind: "agent", name })),
)

/** The best worker that was not tried yet; where there is none, `FALLBACK_AGENT`, if it is set. */
export const selectInFleet = Effect.fnUntraced(function* (
  tried?: ReadonlySet<string>,
): Effect.fn.Return<Selection, never, Fleet | Settings> {
  const fleet = yield* Fleet
  const selected = yield* Effect.result(fleet.select(tried))
  if (Result.isSuccess(selected)) {
    const { considered, seat } = selected.success
    return Result.succeed({ place: atWorker(seat), considered })
  }
  // A fleet that was not read yet is not one that has nobody.
  const fallback = fleet.known() ? yield* fallbackAgent : Option.none<AgentRef>()
  return Option.match(fallback, {
    onNone: () => Result.fail(selected.failure),
    onSome: (place) => Result.succeed({ place, considered: selected.failure.considered }),
  })
})

/** Who is to have a call of this decision, now. */
export const selectTaker = ({
  agent,
  target,
}: Decision): Effect.Effect<Selection, never, Fleet | Settings> =>
  target === "agent"
    ? Effect.succeed(Result.succeed({ place: { kind: "agent", name: agent.name }, considered: [] }))
    : selectInFleet()

/** Gives back a place that was not used. */
export const release = (place: Place): Effect.Effect<void> =>
  place.kind === "fleet" ? place.seat.end("never tried") : Effect.void
