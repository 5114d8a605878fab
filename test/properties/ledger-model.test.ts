// The ledger against a model: deliveries, lapses, leaves and late outcomes in every order, on both databases.

import { Effect, Layer, ManagedRuntime } from "effect"
import fc from "fast-check"
import { sql } from "kysely"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { CallLog } from "../../src/calls/call-log.ts"
import { Settings } from "../../src/config.ts"
import { Backlog } from "../../src/database/backlog.ts"
import { Database } from "../../src/database/database.ts"
import { type CallState, query } from "../../src/database/schema.ts"
import type { Lease } from "../../src/dispatch/lease.ts"
import { type Claimed, Fresh, Ledger } from "../../src/dispatch/ledger.ts"
import { Accepted, Ambiguous, NotSent, type Outcome, Rejected } from "../../src/dispatch/outcome.ts"
import type { WorkerRef } from "../../src/dispatch/taker.ts"
import { makeCall } from "../support/calls.ts"
import { databaseKinds } from "../support/databases.ts"
import { databaseLayer, longLeases } from "../support/engines.ts"
import { cases } from "../support/properties.ts"
import { settingsOf } from "../support/settings.ts"

type WorkerName = "a" | "b"
type OutcomeName = "accepted" | "rejected" | "not-sent" | "ambiguous"

type Step =
  | {
      readonly do: "deliver"
      readonly joined: number
      readonly worker: WorkerName | undefined
      readonly idempotent: ReadonlyArray<WorkerName>
    }
  | { readonly do: "settle"; readonly which: number; readonly outcome: OutcomeName }
  | { readonly do: "move on"; readonly which: number; readonly worker: WorkerName }
  | { readonly do: "renew"; readonly which: number }
  | { readonly do: "lapse" }
  | { readonly do: "leave"; readonly joined: number }

const worker = fc.constantFrom<WorkerName>("a", "b")
const joined = fc.constantFrom(1_000, 2_000)
const which = fc.nat({ max: 3 })
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("deliver" as const),
      joined,
      worker: fc.option(worker, { nil: undefined, freq: 4 }),
      idempotent: fc.constantFrom<ReadonlyArray<WorkerName>>([], [], ["a"], ["a", "b"]),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("settle" as const),
      which,
      outcome: fc.constantFrom<OutcomeName>("accepted", "rejected", "not-sent", "ambiguous", "not-sent"),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("move on" as const), which, worker }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("renew" as const), which }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("lapse" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("leave" as const), joined }) },
)

interface Attempt {
  readonly worker: WorkerName
  readonly claim: number
  outcome: OutcomeName | undefined
  readonly status: number
}

/** The states of the specification, section 2, as a person would write them down. */
class Model {
  state: CallState | "absent" = "absent"
  readonly attempts: Array<Attempt> = []
  private holder = 0
  private lapsed = false
  private left = -1

  deliver(at: Extract<Step, { do: "deliver" }>): Claimed["_tag"] {
    if (this.state === "handing" && this.lapsed) this.state = this.isRejected() ? "rejected" : "uncertain"
    if (this.state === "handing") return "InFlightElsewhere"
    if (this.state === "accepted") return "AlreadyAccepted"
    if (this.state === "rejected") return "AlreadyRejected"
    if (this.left >= at.joined) return "CallerLeft"
    if (this.state === "uncertain") {
      const last = this.attempts.at(-1)!.worker
      return at.idempotent.includes(last) ? this.hand(last, "Resend") : "StillUncertain"
    }
    if (at.worker !== undefined) return this.hand(at.worker, "Fresh")
    this.state = "waiting"
    return "Waiting"
  }

  private hand(to: WorkerName, tag: "Fresh" | "Resend") {
    this.state = "handing"
    this.lapsed = false
    this.holder++
    this.attempts.push({
      worker: to,
      claim: this.holder,
      outcome: undefined,
      status: 500 + this.attempts.length,
    })
    return tag
  }

  private isRejected() {
    return this.attempts.some(({ outcome }) => outcome === "rejected")
  }

  settle(attempt: Attempt, outcome: OutcomeName) {
    if (attempt.outcome !== undefined) return
    attempt.outcome = outcome
    if (this.attempts.some((each) => each.outcome === "accepted")) this.state = "accepted"
    else if (this.state === "handing" && this.holder !== attempt.claim) return
    else if (this.isRejected()) this.state = "rejected"
    else this.state = this.attempts.every((each) => each.outcome === "not-sent") ? "waiting" : "uncertain"
  }

  holds(attempt: Attempt) {
    return this.state === "handing" && this.holder === attempt.claim && !this.lapsed
  }

  moveOn(attempt: Attempt, to: WorkerName): boolean {
    const others = this.attempts.filter((each) => each !== attempt)
    const may =
      this.holds(attempt) &&
      attempt === this.attempts.at(-1) &&
      attempt.outcome === undefined &&
      others.every(({ outcome }) => outcome === "not-sent")
    if (!may) return false
    attempt.outcome = "not-sent"
    this.attempts.push({
      worker: to,
      claim: attempt.claim,
      outcome: undefined,
      status: 500 + this.attempts.length,
    })
    return true
  }

  lapse() {
    if (this.state === "handing") this.lapsed = true
  }

  leave(at: number) {
    if (this.state === "absent") this.state = "none"
    this.left = Math.max(this.left, at)
  }

  /** Everything but a certain "not sent" may have reached a worker: one worker, ever. */
  atMostOneWorker() {
    return (
      new Set(this.attempts.filter(({ outcome }) => outcome !== "not-sent").map((each) => each.worker))
        .size <= 1
    )
  }
}

const workerRef = (name: WorkerName): WorkerRef => ({ kind: "fleet", name, url: `http://${name}` })

const toFresh = (lease: Lease) => new Fresh({ lease, known: false, ghostsBeforeMs: undefined })

const answerOf = (attempt: Attempt, status = attempt.status) => ({
  status,
  contentType: "application/json",
  body: new TextEncoder().encode(`answer ${attempt.status}`),
})

const toOutcome = (name: OutcomeName, attempt: Attempt): Outcome => {
  switch (name) {
    case "accepted":
      return new Accepted({ answer: answerOf(attempt, 200) })
    case "rejected":
      return new Rejected({ answer: answerOf(attempt) })
    case "not-sent":
      return new NotSent({ reason: "refused" })
    case "ambiguous":
      return new Ambiguous({ reason: "ECONNRESET" })
  }
}

const backlog = Layer.provide(Layer.fresh(Backlog.layer), Layer.succeed(Settings, settingsOf()))

describe.each(databaseKinds)("the ledger on %s", (kind) => {
  const database = databaseLayer(kind)
  // Two ledgers on one database: two replicas.
  const runtime = ManagedRuntime.make(
    Layer.mergeAll(
      database,
      Layer.provide(Layer.fresh(Ledger.layer), Layer.provideMerge(backlog, database)),
      Layer.provide(CallLog.layer, database),
    ),
  )
  const other = ManagedRuntime.make(
    Layer.provide(
      Layer.fresh(Ledger.layer),
      Layer.provideMerge(
        backlog,
        Layer.effect(
          Database,
          Effect.promise(() => runtime.runPromise(Database)),
        ),
      ),
    ),
  )
  let calls = 0

  beforeAll(() =>
    runtime.runPromise(
      Effect.andThen(
        Effect.flatMap(Database, ({ migrated }) => migrated),
        longLeases,
      ),
    ),
  )
  afterAll(async () => {
    await other.dispose()
    await runtime.dispose()
  })

  const playOut = Effect.fnUntraced(function* (
    steps: ReadonlyArray<Step>,
    ledgers: ReadonlyArray<Ledger["Service"]>,
  ) {
    const { run } = yield* Database
    const log = yield* CallLog
    const id = `SCL_model_${calls++}`
    const model = new Model()
    const leases: Array<Lease> = []
    for (const [turn, at] of steps.entries()) {
      const ledger = ledgers[turn % 2]!
      const attempt = "which" in at ? model.attempts[at.which] : undefined
      const held = "which" in at ? leases[at.which] : undefined
      switch (at.do) {
        case "deliver": {
          const claimed = yield* ledger.claim({
            call: makeCall(id, at.joined),
            taker: at.worker === undefined ? undefined : workerRef(at.worker),
            idempotentUrls: at.idempotent.map((name) => workerRef(name).url),
            explanation: {},
            answerWithinMs: 20_000,
          })
          expect([turn, claimed._tag]).toEqual([turn, model.deliver(at)])
          if ("lease" in claimed) leases.push(claimed.lease)
          if (claimed._tag === "Resend")
            expect(claimed.worker).toEqual(workerRef(model.attempts.at(-1)!.worker))
          if (claimed._tag === "AlreadyRejected") {
            const rejected = model.attempts.filter(({ outcome }) => outcome === "rejected")
            expect(rejected.map(({ status }) => status)).toContain(claimed.answer.status)
          }
          if (claimed._tag === "AlreadyAccepted") expect(claimed.answer.status).toBe(200)
          break
        }
        case "settle":
          if (attempt === undefined || held === undefined) break
          yield* ledger.settle(held, toOutcome(at.outcome, attempt))
          model.settle(attempt, at.outcome)
          break
        case "move on": {
          if (attempt === undefined || held === undefined) break
          const moved = yield* ledger.moveOn(toFresh(held), "refused", workerRef(at.worker))
          expect([turn, moved !== undefined]).toEqual([turn, model.moveOn(attempt, at.worker)])
          if (moved !== undefined) leases.push(moved.lease)
          break
        }
        case "renew":
          if (attempt === undefined || held === undefined) break
          expect([turn, yield* held.renew]).toEqual([turn, model.holds(attempt)])
          break
        case "lapse":
          yield* run(
            sql`UPDATE calls SET lease_until = clock_timestamp() - interval '1 millisecond'
                WHERE call_key = ${id} AND state = 'handing'`.compile(query),
          )
          model.lapse()
          break
        case "leave":
          yield* log.recordLeave(makeCall(id, at.joined), { aborted: false })
          model.leave(at.joined)
          break
      }
      const rows = yield* run(query.selectFrom("calls").select("state").where("call_key", "=", id))
      expect([turn, rows[0]?.state ?? "absent"]).toEqual([turn, model.state])
      expect(model.atMostOneWorker()).toBe(true)
    }
  })

  it("keeps to the model in whatever order things happen", async () => {
    const first = await runtime.runPromise(Ledger)
    const second = await other.runPromise(Ledger)
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 14 }), (steps) =>
        runtime.runPromise(playOut(steps, [first, second])),
      ),
      cases,
    )
  }, 300_000)

  it("keeps the first accepted answer, whatever comes after it", async () => {
    const ledger = await runtime.runPromise(Ledger)
    const call = makeCall(`SCL_first_${kind}`, 1_000)
    const claim = () =>
      ledger.claim({
        call,
        taker: workerRef("a"),
        idempotentUrls: [workerRef("a").url],
        explanation: {},
        answerWithinMs: 20_000,
      })
    const play = Effect.gen(function* () {
      const first = yield* claim()
      if (first._tag !== "Fresh") throw new Error(first._tag)
      yield* ledger.settle(first.lease, new Ambiguous({ reason: "ECONNRESET" }))
      const second = yield* claim()
      if (second._tag !== "Resend") throw new Error(second._tag)
      yield* ledger.settle(
        second.lease,
        new Accepted({ answer: answerOf({ worker: "a", claim: 2, outcome: undefined, status: 1 }, 200) }),
      )
      yield* ledger.settle(
        first.lease,
        new Accepted({ answer: answerOf({ worker: "a", claim: 1, outcome: undefined, status: 2 }, 200) }),
      )
      return yield* claim()
    })
    const known = await runtime.runPromise(play)
    expect(known._tag === "AlreadyAccepted" && new TextDecoder().decode(known.answer.body)).toBe("answer 1")
  })
})
