// What comes in masses and moves nothing costs a signature check: no row, and no question to the database.

import { Effect, Layer, Logger, ManagedRuntime } from "effect"
import { sql } from "kysely"
import { afterAll, beforeAll, expect, it } from "vitest"
import { CallLog } from "../../src/calls/call-log.ts"
import { TrunkDirectory } from "../../src/carriers/trunk-directory.ts"
import { signBody } from "../../src/commands/signing.ts"
import { Settings } from "../../src/config.ts"
import { Backlog } from "../../src/database/backlog.ts"
import { Cache } from "../../src/database/cache.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
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
import { joinEvent } from "../support/events.ts"
import { apiKey, apiSecret, coreSecret, toBytes } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"

const events = 10_000
const atOnce = 100

const asked: Array<string> = []

// The caches ask on a connection of their own, and so does whoever counts the live sessions now and then.
const counting = Layer.effect(
  Database,
  Effect.map(Database, (database) =>
    around(database, (run, statement) =>
      Effect.suspend(() => {
        asked.push(textOf(statement))
        return run
      }),
    ),
  ),
)

const makeRuntime = () => {
  const settings = settingsOf({
    LIVEKIT_API_KEY: apiKey,
    LIVEKIT_API_SECRET: apiSecret,
    CXB_CORE_SECRET: coreSecret,
  })
  const base = Layer.provideMerge(databaseLayer("postgres"), Layer.succeed(Settings, settings))
  const writers = Layer.mergeAll(Ledger.layer, CallLog.layer, Sessions.layer).pipe(
    Layer.provideMerge(Layer.provide(Backlog.layer, patience)),
    Layer.provide(counting),
  )
  const caches = Layer.mergeAll(Fleet.layer, TrunkDirectory.layer, Routing.layer).pipe(
    Layer.provide(Cache.layer),
  )
  return ManagedRuntime.make(
    Layer.mergeAll(writers, caches, Keys.layer, InFlight.layer, WorkerClient.layer, LiveKit.layer).pipe(
      Layer.provideMerge(base),
      Layer.provideMerge(Logger.layer([])),
    ),
  )
}

let runtime: ReturnType<typeof makeRuntime>

beforeAll(async () => {
  runtime = makeRuntime()
  await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
})
afterAll(() => runtime?.dispose())

const send = async (body: unknown) => {
  const bytes = toBytes(body)
  const authorization = await signBody(bytes, apiKey, apiSecret)
  return runtime.runPromise(
    dispatch({ authorization, body: bytes }).pipe(
      Effect.match({ onSuccess: ({ end }) => end._tag, onFailure: ({ _tag }) => _tag }),
    ),
  )
}

const rowsWritten = async () => {
  const tables = ["calls", "call_aliases", "dispatch_attempts", "leads", "sessions", "answerers"]
  const counts = sql.raw(tables.map((table) => `(SELECT count(*) FROM ${table})`).join(" + "))
  const rows = await runtime.runPromise(
    Effect.flatMap(Database, ({ run }) =>
      run(sql<{ written: number }>`SELECT (${counts})::integer AS written`.compile(query)),
    ),
  )
  return rows[0]?.written
}

it("that a track was published, ten thousand times", async () => {
  // LiveKit tells of tracks with a participant that has neither kind nor attributes, in the rooms of calls, too.
  const rooms = Array.from({ length: 100 }, () => joinEvent().room)
  const published = (index: number) => {
    const { participant, ...body } = joinEvent({ room: rooms[index % rooms.length]! })
    const { identity, sid } = participant
    return {
      ...body,
      event: "track_published",
      participant: { sid, identity },
      track: { sid: `TR_${index}` },
    }
  }
  const ends = new Map<string, number>()
  for (let next = 0; next < events; next += atOnce) {
    const batch = Array.from({ length: atOnce }, (_, index) => send(published(next + index)))
    for (const end of await Promise.all(batch)) ends.set(end, (ends.get(end) ?? 0) + 1)
  }
  expect([...ends]).toEqual([["Ignored", events]])
  expect(asked.filter((statement) => !statement.includes("count(*) AS live"))).toEqual([])
  expect(await rowsWritten()).toBe(0)
}, 120_000)
