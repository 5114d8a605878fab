// How often the path of an event asks the database.

import { Effect, Layer, ManagedRuntime } from "effect"
import { afterAll, beforeAll, expect, it } from "vitest"
import { TrunkDirectory } from "../../src/carriers/trunk-directory.ts"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { signBody } from "../../src/commands/signing.ts"
import { Settings } from "../../src/config.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { InFlight } from "../../src/dispatch/in-flight.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { dispatch } from "../../src/dispatch/pipeline.ts"
import { Fleet } from "../../src/fleet/fleet.ts"
import { WorkerClient } from "../../src/fleet/worker-client.ts"
import { Keys } from "../../src/webhook/keys.ts"
import { databaseLayer } from "../support/engines.ts"
import { joinEvent, leaveOf } from "../support/events.ts"
import { apiKey, apiSecret, coreSecret, toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"

let asked = 0
let worker: SampleWorker
let close = async () => {}
let send: (body: unknown) => Promise<string>

// Only the pipeline's own queries are counted: the caches ask on a connection of their own.
const counting = Layer.effect(
  Database,
  Effect.map(Database, (database) =>
    Database.of({
      ...database,
      run: (query) =>
        Effect.suspend(() => {
          asked++
          return database.run(query)
        }),
    }),
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
  const caches = Layer.mergeAll(Fleet.layer, TrunkDirectory.layer).pipe(Layer.provide(Cache.layer))
  const ledger = Layer.provide(Ledger.layer, counting)
  const runtime = ManagedRuntime.make(
    Layer.mergeAll(ledger, caches, Keys.layer, InFlight.layer, WorkerClient.layer).pipe(
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

it("twice for a call whose first worker answers, once for its duplicate", async () => {
  const join = joinEvent()
  expect(await countFor(join)).toEqual(["HandedOver", 2])
  expect(await countFor(join)).toEqual(["AlreadyAccepted", 1])
})

it("once for a leave", async () => {
  expect(await countFor(leaveOf(joinEvent()))).toEqual(["Ignored", 1])
})

it("never for an event that moves nothing", async () => {
  const agent = { kind: "AGENT", identity: "agent-1" }
  for (const body of [
    joinEvent({ event: { event: "track_published" } }),
    joinEvent({ event: { event: "room_started" } }),
    joinEvent({ event: { event: "room_finished" } }),
    joinEvent({ participant: agent }),
    leaveOf(joinEvent({ participant: agent })),
    joinEvent({ room: { name: "meeting" } }),
    leaveOf(joinEvent({ room: { name: "meeting" } })),
  ]) {
    expect(await countFor(body)).toEqual(["Ignored", 0])
  }
})
