// How often the path of an event asks the database.

import { Effect, Layer, ManagedRuntime } from "effect"
import { afterAll, beforeAll, expect, it } from "vitest"
import { CallLog } from "../../src/calls/call-log.ts"
import { TrunkDirectory } from "../../src/carriers/trunk-directory.ts"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { signBody } from "../../src/commands/signing.ts"
import { Settings } from "../../src/config.ts"
import { Backlog } from "../../src/database/backlog.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { InFlight } from "../../src/dispatch/in-flight.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { dispatch } from "../../src/dispatch/pipeline.ts"
import { Fleet } from "../../src/fleet/fleet.ts"
import { WorkerClient } from "../../src/fleet/worker-client.ts"
import { LiveKit } from "../../src/livekit/livekit.ts"
import { Routing } from "../../src/routing/routing.ts"
import { Sessions } from "../../src/sessions/sessions.ts"
import { Keys } from "../../src/webhook/keys.ts"
import { around, databaseLayer, patience, textOf } from "../support/engines.ts"
import { joinEvent, leaveOf } from "../support/events.ts"
import { apiKey, apiSecret, coreSecret, toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

let asked = 0
let worker: SampleWorker
let close = async () => {}
let send: (body: unknown) => Promise<string>

// Only the pipeline's own queries are counted: the caches ask on a connection of their own. What comes by the clock is
// left out: how many rooms are live, and that a lease goes on.
const inTheBackground = /count\(\*\) AS live|^\s*UPDATE calls SET lease_until/

const counting = Layer.effect(
  Database,
  Effect.map(Database, (database) =>
    around(database, (run, statement) =>
      Effect.suspend(() => {
        if (!inTheBackground.test(textOf(statement))) asked++
        return run
      }),
    ),
  ),
)

beforeAll(async () => {
  worker = await startWorker()
  const settings = settingsOf({
    LIVEKIT_API_KEY: apiKey,
    LIVEKIT_API_SECRET: apiSecret,
    CXB_CORE_SECRET: coreSecret,
    CORE_FLEET: worker.url,
  })
  const base = Layer.provideMerge(databaseLayer("postgres"), Layer.succeed(Settings, settings))
  const caches = Layer.mergeAll(Fleet.layer, TrunkDirectory.layer, Routing.layer).pipe(
    Layer.provide(Cache.layer),
  )
  const writers = Layer.mergeAll(Ledger.layer, CallLog.layer, Sessions.layer).pipe(
    Layer.provideMerge(Layer.provide(Backlog.layer, patience)),
    Layer.provide(counting),
  )
  const runtime = ManagedRuntime.make(
    Layer.mergeAll(writers, caches, Keys.layer, InFlight.layer, WorkerClient.layer, LiveKit.layer).pipe(
      Layer.provideMerge(base),
    ),
  )
  const fleet = await runtime.runPromise(Fleet)
  await eventually("the worker is up", async () =>
    (await runtime.runPromise(fleet.view)).some(({ up }) => up),
  )
  send = async (body) => {
    const bytes = toBytes(body)
    const authorization = await signBody(bytes, apiKey, apiSecret)
    return runtime.runPromise(
      dispatch({ authorization, body: bytes }).pipe(
        Effect.match({ onSuccess: ({ end }) => end._tag, onFailure: ({ _tag }) => _tag }),
      ),
    )
  }
  close = async () => {
    await runtime.dispose()
    await worker.stop()
  }
})
afterAll(() => close())

const countFor = async (body: unknown) => {
  asked = 0
  const end = await send(body)
  return [end, asked]
}

it("twice for a call whose first worker answers, never for the same event again, twice for another of that call", async () => {
  const join = joinEvent()
  expect(await countFor(join)).toEqual(["HandedOver", 2])
  expect(await countFor(join)).toEqual(["AlreadyAccepted", 0])
  expect(await countFor({ ...join, id: "EV_another" })).toEqual(["AlreadyAccepted", 2])
  expect(await countFor({ ...join, id: "" })).toEqual(["AlreadyAccepted", 2])
})

it("twice for another call, though its event goes by the same id, twice for another join of the same call", async () => {
  const [one, other] = [joinEvent(), joinEvent()]
  expect(await countFor({ ...one, id: "EV_same" })).toEqual(["HandedOver", 2])
  expect(await countFor({ ...other, id: "EV_same" })).toEqual(["HandedOver", 2])
  const again = { ...one.participant, sid: "PA_again" }
  expect(await countFor({ ...one, id: "EV_same", participant: again })).toEqual(["AlreadyAccepted", 2])
})

it("twice for a call that was turned down and comes again: somebody else may have it since", async () => {
  const join = joinEvent()
  worker.behaviour.dispatch = respond(500, { ok: false })
  expect(await countFor(join)).toEqual(["HandedOver", 2])
  worker.behaviour.dispatch = respond(200, { ok: true })
  expect(await countFor(join)).toEqual(["AlreadyRejected", 2])
})

it("once for a leave", async () => {
  expect(await countFor(leaveOf(joinEvent()))).toEqual(["Ignored", 1])
})

it("once for what a room, an answerer or a repetition tells", async () => {
  const join = joinEvent()
  const agent = { kind: "AGENT", identity: "agent-1" }
  for (const body of [
    { ...join, event: "room_started" },
    { ...join, event: "room_started" },
    { ...join, participant: { ...join.participant, ...agent } },
    leaveOf({ ...join, participant: { ...join.participant, ...agent } }),
    { ...join, event: "room_finished" },
    { ...join, event: "room.finished" },
  ]) {
    expect(await countFor(body)).toEqual(["Ignored", 1])
  }
})

it("once for all who join a room of no call", async () => {
  const join = joinEvent({ room: { name: "meeting" } })
  expect(await countFor(join)).toEqual(["Ignored", 1])
  expect(await countFor(join)).toEqual(["Ignored", 0])
  expect(await countFor({ ...join, participant: { ...join.participant, kind: "AGENT" } })).toEqual([
    "Ignored",
    0,
  ])
})

it("never for an event that moves nothing", async () => {
  for (const body of [
    joinEvent({ event: { event: "track_published" } }),
    joinEvent({ event: { event: "egress_updated" } }),
    joinEvent({ event: { event: "an_event_of_tomorrow" } }),
    joinEvent({ event: { event: "room_started" }, room: { sid: "", name: "" } }),
    leaveOf(joinEvent({ participant: { kind: "EGRESS" } })),
    leaveOf(joinEvent({ room: { name: "meeting" } })),
  ]) {
    expect(await countFor(body)).toEqual(["Ignored", 0])
  }
})
