// A call that worker `a` has been chosen for, and what stands around a hand-over: none of it does anything by itself.

import { Effect, Option } from "effect"
import type { Lease } from "../../src/dispatch/lease.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { type AtWorker, atWorker } from "../../src/dispatch/select-taker.ts"
import { Fleet, NoFleet } from "../../src/fleet/fleet.ts"

const unused = () => Effect.die("not part of it")

/** The place that was taken at worker `a`. */
export const placeAtA: AtWorker = atWorker({
  name: "a",
  url: "http://a",
  begin: Effect.void,
  end: () => Effect.void,
})

/** A lease that holds; `renew` says what comes of each renewal. */
export const makeLease = (renew: Lease["renew"] = Effect.succeed(true)): Lease => ({
  key: "SCL_1",
  names: ["SCL_1"],
  callRowId: "00000000-0000-4000-8000-000000000001",
  claimId: "00000000-0000-4000-8000-000000000002",
  attempt: 1,
  isValid: () => true,
  renew,
})

/** A ledger that knows nothing, and dies where it is asked for what `own` does not have. */
export const ledgerWith = (own: Partial<Ledger["Service"]> = {}): Ledger["Service"] =>
  Ledger.of({
    claim: unused,
    callerLeft: () => {},
    hasLeft: () => false,
    answered: () => {},
    answerTo: () => undefined,
    settle: unused,
    ask: unused,
    askNow: unused,
    rescue: unused,
    moveOn: unused,
    ...own,
  })

/** A fleet without workers, unless `select` finds one. */
export const fleetWith = (
  select: Fleet["Service"]["select"] = () => Effect.fail(new NoFleet({ considered: [] })),
): Fleet["Service"] =>
  Fleet.of({
    select,
    seatOn: () => Effect.succeed(Option.none()),
    idempotentUrls: () => [],
    view: Effect.succeed([]),
    known: () => true,
  })
