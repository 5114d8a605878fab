// The ledger where the database did what it was asked, and its answer was lost.

import { Effect, Layer, ManagedRuntime } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Database } from "../../src/database/database.ts"
import { DatabaseUnavailable } from "../../src/database/errors.ts"
import { query } from "../../src/database/schema.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { makeCall } from "../support/calls.ts"
import { databaseKinds } from "../support/databases.ts"
import { databaseLayer } from "../support/engines.ts"
import { eventually } from "../support/waiting.ts"

let loseNextAnswer = false

const losing = Layer.effect(
  Database,
  Effect.map(Database, (database) =>
    Database.of({
      ...database,
      run: (statement) =>
        Effect.flatMap(database.run(statement), (rows) => {
          if (!loseNextAnswer) return Effect.succeed(rows)
          loseNextAnswer = false
          return Effect.fail(new DatabaseUnavailable({ cause: "the connection broke" }))
        }),
    }),
  ),
)

describe.each(databaseKinds)("on %s", (kind) => {
  const database = databaseLayer(kind)
  const runtime = ManagedRuntime.make(
    Layer.merge(database, Layer.provide(Ledger.layer, Layer.provide(losing, database))),
  )
  beforeAll(() => runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated)))
  afterAll(() => runtime.dispose())

  const worker = (name: string) => ({ name, url: `http://${name}` })
  const claim = (id: string) =>
    Effect.flatMap(Ledger, (ledger) =>
      ledger.claim({ call: makeCall(id), worker: worker("a"), idempotentUrls: [], explanation: {} }),
    )
  const waiting = (id: string) =>
    eventually("nothing was sent, and the row says so", async () => {
      const rows = await runtime.runPromise(
        Effect.flatMap(Database, ({ run }) =>
          run(query.selectFrom("calls").select("state").where("call_key", "=", id)),
        ),
      )
      return rows[0]?.state === "waiting"
    })

  it("a claim whose answer was lost is given back, and the next delivery hands the call over", async () => {
    loseNextAnswer = true
    const lost = await runtime.runPromise(Effect.flip(claim("SCL_lost")))
    expect(lost._tag).toBe("DatabaseUnavailable")
    await waiting("SCL_lost")
    expect((await runtime.runPromise(claim("SCL_lost")))._tag).toBe("Fresh")
  })

  it("of deliveries that meet on a waiting call one hands it over, the others are told it is in flight", async () => {
    for (let round = 0; round < 50; round++) {
      const id = `SCL_meet_${round}`
      const nobody = Effect.flatMap(Ledger, (ledger) =>
        ledger.claim({ call: makeCall(id), worker: undefined, idempotentUrls: [], explanation: {} }),
      )
      expect((await runtime.runPromise(nobody))._tag).toBe("Waiting")
      const claims = await Promise.all(Array.from({ length: 6 }, () => runtime.runPromise(claim(id))))
      expect(claims.map(({ _tag }) => _tag).sort()).toEqual(["Fresh", ...Array(5).fill("InFlightElsewhere")])
    }
  })

  it("so is a change of worker", async () => {
    const fresh = await runtime.runPromise(claim("SCL_moved"))
    if (fresh._tag !== "Fresh") throw new Error(fresh._tag)
    loseNextAnswer = true
    const moving = Effect.flatMap(Ledger, (ledger) => ledger.moveOn(fresh, "refused", worker("b")))
    expect((await runtime.runPromise(Effect.flip(moving)))._tag).toBe("DatabaseUnavailable")
    await waiting("SCL_moved")
    expect((await runtime.runPromise(claim("SCL_moved")))._tag).toBe("Fresh")
  })
})
