// That only what was never sent can go on to another worker is said by the types: what must not compile here does
// not, and what compiles does what it says.

import { describe, expect, it } from "@effect/vitest"
import { Effect } from "effect"
import { Settings } from "../../src/config.ts"
import { failover } from "../../src/dispatch/attempts.ts"
import type { Ours, OursAgain } from "../../src/dispatch/claim.ts"
import { Fresh, Ledger, Resend } from "../../src/dispatch/ledger.ts"
import {
  Accepted,
  Ambiguous,
  fromAnswer,
  isRedirect,
  NotSent,
  type Outcome,
  Rejected,
} from "../../src/dispatch/outcome.ts"
import { relay } from "../../src/dispatch/relay.ts"
import type { WorkerRef } from "../../src/dispatch/taker.ts"
import { Fleet, type Seat } from "../../src/fleet/fleet.ts"
import type { WorkerAnswer } from "../../src/fleet/worker-client.ts"
import { settingsOf } from "../support/settings.ts"
import { fleetWith, ledgerWith, makeLease, placeAtA } from "../support/taken.ts"

const lease = makeLease()
const answerOf = (status: number): WorkerAnswer => ({
  status,
  contentType: undefined,
  body: new Uint8Array(),
})
const worker: WorkerRef = { kind: "fleet", name: "a", url: "http://a" }
const tried: ReadonlySet<string> = new Set([worker.url])

const place = placeAtA
const fresh: Ours = { claim: new Fresh({ lease, known: false, ghostsBeforeMs: undefined }), place }
const resend: OursAgain = { claim: new Resend({ lease, worker }), place }
const notSent = new NotSent({ reason: "refused" })
const accepted = new Accepted({ answer: answerOf(200) })
const rejected = new Rejected({ answer: answerOf(429) })
const ambiguous = new Ambiguous({ reason: "ECONNRESET" })

const whatCompiles = (outcome: Outcome, claimed: Ours | OursAgain) => {
  failover(fresh, notSent, tried)

  // @ts-expect-error: the worker has the call
  failover(fresh, accepted, tried)
  // @ts-expect-error: the worker has answered, and may have removed the caller
  failover(fresh, rejected, tried)
  // @ts-expect-error: the worker may have the call
  failover(fresh, ambiguous, tried)
  // @ts-expect-error: it could be any of them
  failover(fresh, outcome, tried)
  // @ts-expect-error: an answer is never a failure to send
  failover(fresh, fromAnswer(answerOf(503)), tried)

  // @ts-expect-error: a call that is sent again goes to no other worker, whatever comes of it
  failover(resend, notSent, tried)
  // @ts-expect-error: it could be sent again
  failover(claimed, notSent, tried)

  const { claim } = claimed
  if (outcome._tag === "NotSent" && claim._tag === "Fresh") failover({ claim, place }, outcome, tried)
  // @ts-expect-error: only half of it is known
  if (outcome._tag === "NotSent") failover({ claim, place }, outcome, tried)
  // @ts-expect-error: only half of it is known
  if (claim._tag === "Fresh") failover({ claim, place }, outcome, tried)

  const mayGoOn: NotSent = notSent
  // @ts-expect-error: what was sent is not what was not
  const sent: NotSent = ambiguous
  // @ts-expect-error: nor is an answer
  const answered: Ambiguous = rejected
  // @ts-expect-error: a turned down call was not taken
  const taken: Accepted = rejected
  return [mayGoOn, sent, answered, taken, relay]
}

describe("a hand-over that was not sent", () => {
  const seatOn = (url: string, ended: Array<string>): Seat => ({
    name: url,
    url,
    begin: Effect.void,
    end: (result) => Effect.sync(() => ended.push(`${url} ${result}`)),
  })

  /** Fails over with one worker left, where the ledger moves the row on or does not. */
  const failOver = (outcome: NotSent, moves: boolean) =>
    Effect.gen(function* () {
      const ended: Array<string> = []
      const asked: Array<string> = []
      const next = yield* failover(fresh, outcome, tried).pipe(
        Effect.provideService(
          Fleet,
          fleetWith((excluded = new Set()) =>
            Effect.sync(() => {
              asked.push(`select without ${[...excluded].join()}`)
              return { seat: seatOn("http://b", ended), considered: [] }
            }),
          ),
        ),
        Effect.provideService(
          Ledger,
          ledgerWith({
            moveOn: (held, reason, taker) =>
              Effect.sync(() => {
                asked.push(`move to ${taker.name}: ${reason}`)
                return moves ? new Fresh({ ...held, lease: { ...lease, attempt: 2 } }) : undefined
              }),
          }),
        ),
        Effect.provideService(Settings, settingsOf()),
      )
      return { next, asked, ended }
    })

  it.effect("goes to another worker, which the ledger names first", () =>
    Effect.gen(function* () {
      expect(whatCompiles).toBeTypeOf("function")
      const { asked, ended, next } = yield* failOver(notSent, true)
      expect(asked).toEqual(["select without http://a", "move to http://b: refused"])
      expect(next?.claim.lease.attempt).toBe(2)
      expect(next?.place).toMatchObject({ kind: "fleet", url: "http://b" })
      expect(ended).toEqual([])
    }),
  )

  it.effect("goes nowhere where the ledger does not move on, and leaves no place taken", () =>
    Effect.gen(function* () {
      const { ended, next } = yield* failOver(notSent, false)
      expect(next).toBeUndefined()
      expect(ended).toEqual(["http://b never tried"])
    }),
  )

  it.effect("goes nowhere, and asks nobody, where the lease has lapsed", () =>
    Effect.gen(function* () {
      const { asked, next } = yield* failOver(new NotSent({ reason: "lease lapsed" }), true)
      expect(next).toBeUndefined()
      expect(asked).toEqual([])
    }),
  )
})

describe("an answer", () => {
  it("accepts with 2xx and rejects with any other status, never anything else", () => {
    for (let status = 100; status < 600; status++) {
      expect(fromAnswer(answerOf(status))._tag, `${status}`).toBe(
        status >= 200 && status <= 299 ? "Accepted" : "Rejected",
      )
      expect(isRedirect(answerOf(status)), `${status}`).toBe(status >= 300 && status <= 399)
    }
  })
})
