// The ledger where the database did what it was asked, and its answer was lost.

import { Effect, Layer, ManagedRuntime } from "effect"
import { sql } from "kysely"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { Call } from "../../src/calls/call.ts"
import { CallLog } from "../../src/calls/call-log.ts"
import { Settings } from "../../src/config.ts"
import { Backlog } from "../../src/database/backlog.ts"
import { Database } from "../../src/database/database.ts"
import { DatabaseUnavailable } from "../../src/database/errors.ts"
import { query } from "../../src/database/schema.ts"
import { Ledger } from "../../src/dispatch/ledger.ts"
import { Accepted } from "../../src/dispatch/outcome.ts"
import type { WorkerRef } from "../../src/dispatch/taker.ts"
import { makeCall } from "../support/calls.ts"
import { databaseKinds } from "../support/databases.ts"
import { around, databaseLayer, longLeases } from "../support/engines.ts"
import { settingsOf } from "../support/settings.ts"
import { eventually } from "../support/waiting.ts"

let answersToLose = 0 // Infinity: every one, until it is set back

const losing = Layer.effect(
  Database,
  Effect.map(Database, (database) =>
    around(database, (run) =>
      Effect.flatMap(run, (rows) => {
        if (answersToLose === 0) return Effect.succeed(rows)
        answersToLose--
        return Effect.fail(new DatabaseUnavailable({ cause: "the connection broke" }))
      }),
    ),
  ),
)

const backlog = Layer.provide(Layer.fresh(Backlog.layer), Layer.succeed(Settings, settingsOf()))

describe.each(databaseKinds)("on %s", (kind) => {
  const database = databaseLayer(kind)
  const runtime = ManagedRuntime.make(
    Layer.mergeAll(
      database,
      Layer.provide(Ledger.layer, Layer.provideMerge(backlog, Layer.provide(losing, database))),
      Layer.provide(CallLog.layer, database),
    ),
  )
  beforeAll(() =>
    runtime.runPromise(
      Effect.andThen(
        Effect.flatMap(Database, ({ migrated }) => migrated),
        longLeases,
      ),
    ),
  )
  afterAll(() => runtime.dispose())

  const worker = (name: string): WorkerRef => ({ kind: "fleet", name, url: `http://${name}` })
  const claim = (id: string) =>
    Effect.flatMap(Ledger, (ledger) =>
      ledger.claim({
        call: makeCall(id),
        taker: worker("a"),
        idempotentUrls: [],
        explanation: {},
        answerWithinMs: 20_000,
      }),
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

  it("a claim whose answer was lost is asked for again, and stands", async () => {
    answersToLose = 2
    expect(await runtime.runPromise(claim("SCL_again"))).toMatchObject({
      _tag: "Fresh",
      lease: { attempt: 1 },
    })
  })

  it("a claim whose answers are all lost is given back, and the next delivery hands the call over", async () => {
    answersToLose = 4
    const lost = await runtime.runPromise(Effect.flip(claim("SCL_lost")))
    expect(lost._tag).toBe("DatabaseUnavailable")
    await waiting("SCL_lost")
    expect((await runtime.runPromise(claim("SCL_lost")))._tag).toBe("Fresh")
  })

  it("also where another replica has meanwhile found its lease lapsed", async () => {
    answersToLose = Number.POSITIVE_INFINITY
    await runtime.runPromise(Effect.flip(claim("SCL_lapsed")))
    const inOther = Effect.gen(function* () {
      const { run } = yield* Database
      yield* run(
        sql`UPDATE calls SET lease_until = clock_timestamp() WHERE call_key = 'SCL_lapsed'`.compile(query),
      )
      return yield* Effect.provide(claim("SCL_lapsed"), Layer.provide(Layer.fresh(Ledger.layer), backlog))
    })
    expect((await runtime.runPromise(inOther))._tag).toBe("StillUncertain")
    answersToLose = 0
    await waiting("SCL_lapsed")
    expect((await runtime.runPromise(claim("SCL_lapsed")))._tag).toBe("Fresh")
  })

  it("a leg without a dispatch rule whose leave came first is no call where its room is taken", async () => {
    const inRoom = (id: string, joinedAtMs: number, rule: string): Call => {
      const call = makeCall(id, joinedAtMs)
      const room = { sid: "RM_shared", name: "call-shared", creationTimeMs: 0 }
      const attributes = new Map([
        ["sip.callID", id],
        ["sip.ruleID", rule],
      ])
      const participant = { ...call.leg.participant, attributes }
      return { ...call, leg: { event: { ...call.leg.event, room, participant }, participant } }
    }
    const play = Effect.gen(function* () {
      const ledger = yield* Ledger
      const log = yield* CallLog
      const give = (call: Call) =>
        ledger.claim({
          call,
          taker: worker("a"),
          idempotentUrls: [],
          explanation: {},
          answerWithinMs: 20_000,
        })
      yield* log.recordLeave(inRoom("SCL_ruleless", 1_000, ""), { aborted: false })
      const first = yield* give(inRoom("SCL_holder", 1_000, "SDR_1"))
      const left = yield* give(inRoom("SCL_ruleless", 1_000, ""))
      const rejoined = yield* give(inRoom("SCL_ruleless", 2_000, ""))
      return [first._tag, left._tag, rejoined._tag]
    })
    expect(await runtime.runPromise(play)).toEqual(["Fresh", "CallerLeft", "NotACall"])
  })

  it("of deliveries that meet on a waiting call one hands it over, the others are told it is in flight", async () => {
    for (let round = 0; round < 50; round++) {
      const id = `SCL_meet_${round}`
      const nobody = Effect.flatMap(Ledger, (ledger) =>
        ledger.claim({
          call: makeCall(id),
          taker: undefined,
          idempotentUrls: [],
          explanation: {},
          answerWithinMs: 20_000,
        }),
      )
      expect((await runtime.runPromise(nobody))._tag).toBe("Waiting")
      const claims = await Promise.all(Array.from({ length: 6 }, () => runtime.runPromise(claim(id))))
      expect(claims.map(({ _tag }) => _tag).sort()).toEqual(["Fresh", ...Array(5).fill("InFlightElsewhere")])
    }
  })

  it("of many calls that reach two replicas at once each is handed over once, and settled as it ended", async () => {
    const ids = Array.from({ length: 60 }, (_, n) => `SCL_many_${n}`)
    const inTurn = (ledger: Ledger["Service"], order: ReadonlyArray<string>) =>
      Effect.forEach(
        order,
        (id) =>
          Effect.gen(function* () {
            const call = makeCall(id)
            const rules = { idempotentUrls: [], explanation: { took_ms: {} }, answerWithinMs: 20_000 }
            const claimed = yield* ledger.claim({ call, taker: worker("a"), ...rules })
            if (claimed._tag !== "Fresh") return { id, told: claimed._tag, state: undefined }
            const answer = { status: 200, contentType: "text/plain", body: new TextEncoder().encode(id) }
            const state = yield* ledger.settle(claimed.lease, new Accepted({ answer }), { relay: 1 })
            return { id, told: "Fresh", state }
          }),
        { concurrency: "unbounded" },
      )
    const play = Effect.gen(function* () {
      const ledger = yield* Ledger
      const other = yield* Effect.provide(Ledger, Layer.provide(Layer.fresh(Ledger.layer), backlog))
      const { run } = yield* Database
      const told = yield* Effect.all([inTurn(ledger, ids), inTurn(other, ids.toReversed())], {
        concurrency: "unbounded",
      })
      const rows = yield* run(
        query
          .selectFrom("calls")
          .innerJoin("dispatch_attempts", "call_id", "id")
          .select([
            "call_key",
            "state",
            "attempts",
            "answer_body",
            "dispatch_attempts.outcome",
            "explanation",
          ])
          .where("call_key", "like", "SCL_many_%"),
      )
      return { told: told.flat(), rows }
    })
    const { rows, told } = await runtime.runPromise(play)
    const fresh = told.filter((one) => one.told === "Fresh")
    expect(fresh.map(({ id }) => id).toSorted()).toEqual(ids.toSorted())
    expect(fresh.every(({ state }) => state === "accepted")).toBe(true)
    const known = ["Fresh", "InFlightElsewhere", "AlreadyAccepted"]
    expect(told.filter((one) => !known.includes(one.told))).toEqual([])
    expect(rows).toHaveLength(ids.length)
    for (const row of rows) {
      expect(row).toMatchObject({ state: "accepted", attempts: 1, outcome: "accepted" })
      expect(row.explanation).toEqual({ took_ms: { relay: 1 } })
      expect(new TextDecoder().decode(row.answer_body ?? undefined)).toBe(row.call_key)
    }
  })

  it("so is a change of worker", async () => {
    const fresh = await runtime.runPromise(claim("SCL_moved"))
    if (fresh._tag !== "Fresh") throw new Error(fresh._tag)
    answersToLose = 1
    const moving = Effect.flatMap(Ledger, (ledger) => ledger.moveOn(fresh, "refused", worker("b")))
    expect((await runtime.runPromise(Effect.flip(moving)))._tag).toBe("DatabaseUnavailable")
    await waiting("SCL_moved")
    expect((await runtime.runPromise(claim("SCL_moved")))._tag).toBe("Fresh")
  })
})
