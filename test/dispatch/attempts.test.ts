// A hand-over keeps its lease for as long as it lasts, and not a moment longer.

import { Deferred, Effect, Layer } from "effect"
import { afterEach, beforeEach, expect, it, vi } from "vitest"
import { Settings } from "../../src/config.ts"
import { DatabaseUnavailable } from "../../src/database/errors.ts"
import { makeAttempts } from "../../src/dispatch/attempts.ts"
import type { Lease } from "../../src/dispatch/lease.ts"
import { Fresh, Ledger } from "../../src/dispatch/ledger.ts"
import { Fleet } from "../../src/fleet/fleet.ts"
import { WorkerClient } from "../../src/fleet/worker-client.ts"
import { LiveKit } from "../../src/livekit/livekit.ts"
import { makeCall } from "../support/calls.ts"
import { settingsOf } from "../support/settings.ts"
import { fleetWith, ledgerWith, makeLease, placeAtA } from "../support/taken.ts"

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
})
afterEach(() => {
  vi.useRealTimers()
})

const settings = Layer.succeed(Settings, settingsOf())
const others = Layer.mergeAll(
  settings,
  Layer.provide(LiveKit.layer, settings),
  Layer.succeed(Fleet, fleetWith()),
  Layer.succeed(Ledger, ledgerWith()),
)

/** Hands a call to a worker that answers when it is told to, under a lease whose renewals end as given. */
const handOver = (renewals: ReadonlyArray<Lease["renew"]>) => {
  const answered = Deferred.makeUnsafe<void>()
  const state = { renewed: 0 }
  const lease = makeLease(Effect.suspend(() => renewals[state.renewed++] ?? Effect.succeed(true)))
  const worker = WorkerClient.of({
    health: () => Effect.die("not part of it"),
    dispatch: () =>
      Effect.as(Deferred.await(answered), { status: 200, contentType: undefined, body: new Uint8Array() }),
  })
  const ended = makeAttempts(makeCall("SCL_1"), {
    claim: new Fresh({ lease, known: false, ghostsBeforeMs: undefined }),
    place: placeAtA,
  }).pipe(
    Effect.map(({ outcome }) => outcome._tag),
    Effect.provide(others),
    Effect.provideService(WorkerClient, worker),
    Effect.runPromise,
  )
  return { answer: () => Effect.runSync(Deferred.succeed(answered, undefined)), ended, state }
}

const renewedAfter = async (ms: number, state: { readonly renewed: number }) => {
  await vi.advanceTimersByTimeAsync(ms)
  return state.renewed
}

it("is renewed every second, from the first on, until the hand-over ends", async () => {
  const { answer, ended, state } = handOver([])
  expect(await renewedAfter(900, state)).toBe(0)
  expect(await renewedAfter(200, state)).toBe(1)
  expect(await renewedAfter(1_000, state)).toBe(2)
  expect(await renewedAfter(3_000, state)).toBe(5)
  answer()
  expect(await ended).toBe("Accepted")
  expect(await renewedAfter(3_000, state)).toBe(5)
  expect(vi.getTimerCount()).toBe(0)
})

it("is not renewed by a hand-over that is done before, nor is a timer left", async () => {
  const { answer, ended, state } = handOver([])
  expect(await renewedAfter(500, state)).toBe(0)
  answer()
  expect(await ended).toBe("Accepted")
  expect(vi.getTimerCount()).toBe(0)
  expect(await renewedAfter(3_000, state)).toBe(0)
})

it("is tried again after a database that does not answer, and not once it is lost", async () => {
  const away = Effect.fail(new DatabaseUnavailable({ cause: new Error("away") }))
  const { answer, ended, state } = handOver([away, Effect.succeed(true), Effect.succeed(false)])
  expect(await renewedAfter(1_100, state)).toBe(1)
  expect(await renewedAfter(2_000, state)).toBe(3)
  expect(await renewedAfter(5_000, state)).toBe(3)
  answer()
  expect(await ended).toBe("Accepted")
})

it("holds the answer up by no renewal that hangs", async () => {
  const { answer, ended, state } = handOver([Effect.never])
  expect(await renewedAfter(1_100, state)).toBe(1)
  answer()
  expect(await ended).toBe("Accepted")
})
