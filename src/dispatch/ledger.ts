// The ledger: one row per call key decides who may hand the call over, and what every other delivery is told.

import { Context, Data, Effect, Layer, Schedule } from "effect"
import { sql } from "kysely"
import { isRoomTaken } from "../calls/call-row.ts"
import { tellChanges } from "../calls/changes.ts"
import { monotonicMs, theClock } from "../clock.ts"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { type CallState, query } from "../database/schema.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import { type Ask, type AskedRow, askStatement } from "./ask-statement.ts"
import { type ClaimInput, type ClaimRow, claimStatement } from "./claim-statement.ts"
import { type Lease, leaseMs } from "./lease.ts"
import { NotSent, type Outcome } from "./outcome.ts"
import { rescueStatement, type SeenCall } from "./rescue-statement.ts"
import { moveStatement, renewStatement, settleStatement } from "./settle-statements.ts"
import type { Taker, WorkerRef } from "./taker.ts"

/**
 * The call is ours, nothing of it was ever sent, and the row names who is to have it.
 * `known`: a claim was tried before this one, so the caller may have gone meanwhile. Participants who joined
 * before `ghostsBeforeMs` (milliseconds since 1970) are those of a LiveKit that has crashed.
 */
export class Fresh extends Data.TaggedClass("Fresh")<{
  readonly lease: Lease
  readonly known: boolean
  readonly ghostsBeforeMs: number | undefined
}> {}

/** The call is ours; its idempotent worker may have it, and gets the same request again, and nobody else does. */
export class Resend extends Data.TaggedClass("Resend")<{
  readonly lease: Lease
  readonly worker: WorkerRef
}> {}

/** Claimed without a worker: nothing was sent, the next delivery may try. */
export class Waiting extends Data.TaggedClass("Waiting")<{}> {}

/** Another hand-over holds a valid lease. */
export class InFlightElsewhere extends Data.TaggedClass("InFlightElsewhere")<{}> {}

/** A worker took the call; this is what it answered. */
export class AlreadyAccepted extends Data.TaggedClass("AlreadyAccepted")<{ readonly answer: WorkerAnswer }> {}

/** A worker turned the call down; this is what it answered. */
export class AlreadyRejected extends Data.TaggedClass("AlreadyRejected")<{ readonly answer: WorkerAnswer }> {}

/** The call was sent and nobody knows what became of it. */
export class StillUncertain extends Data.TaggedClass("StillUncertain")<{}> {}

/** The leave of this join is known. */
export class CallerLeft extends Data.TaggedClass("CallerLeft")<{}> {}

/** No call of ours after all: an outbound leg, or one without a dispatch rule in a room that is taken. */
export class NotACall extends Data.TaggedClass("NotACall")<{ readonly why: string }> {}

/** What the ledger tells a delivery that may not hand the call over. */
export type Known =
  | InFlightElsewhere
  | AlreadyAccepted
  | AlreadyRejected
  | StillUncertain
  | CallerLeft
  | NotACall

export type Claimed = Fresh | Resend | Waiting | Known

/** This agent is to have the call; `now` where that was decided by this very question. */
export class GivenTo extends Data.TaggedClass("GivenTo")<{
  readonly agent: string
  /** The JSON text that was stored with the agent. */
  readonly metadata: string | null
  readonly now: boolean
}> {}

/** Somebody else has the call, or may have it. */
export class TakenAlready extends Data.TaggedClass("TakenAlready")<{}> {}

/** What whoever asks for an agent is told. */
export type Asked = GivenTo | TakenAlready | CallerLeft

const storedAnswer = (row: ClaimRow): WorkerAnswer => ({
  status: row.answer_status ?? 200,
  contentType: row.answer_type || undefined,
  body: row.answer_body ?? new Uint8Array(),
})

const toKnown = (row: ClaimRow): Known | Waiting => {
  if (row.direction === "outbound") return new NotACall({ why: "outbound leg" })
  if (row.state === "accepted") return new AlreadyAccepted({ answer: storedAnswer(row) })
  if (row.state === "rejected") return new AlreadyRejected({ answer: storedAnswer(row) })
  if (row.state === "handing" && row.lease_valid) return new InFlightElsewhere()
  if (row.left) return new CallerLeft()
  return row.state === "waiting" || row.state === "none" ? new Waiting() : new StillUncertain()
}

const toAsked = (row: AskedRow): Asked => {
  const isAgents = row.target === "agent" && row.agent_name !== null
  if (isAgents && ["accepted", "handing", "uncertain"].includes(row.state)) {
    return new GivenTo({ agent: row.agent_name, metadata: row.metadata, now: row.taken_now })
  }
  return row.left && ["none", "waiting"].includes(row.state) ? new CallerLeft() : new TakenAlready()
}

/** A claim to be made. */
export interface Claiming extends Omit<ClaimInput, "rowId" | "claimId"> {
  /** Said of a call that is new here, before anything else is. */
  readonly announce?: Effect.Effect<void>
}

export class Ledger extends Context.Service<
  Ledger,
  {
    /**
     * Claims the call for the taker, or for nobody (`undefined`: it will be `Waiting`), or tells what is
     * known. `idempotentUrls` are the workers that may be sent the same request again.
     */
    readonly claim: (input: Claiming) => Effect.Effect<Claimed, DatabaseError>
    /**
     * Ends the attempt of a fresh hand-over as not sent and names the next taker; `undefined` where the lease
     * was lost, and nothing may be sent any more.
     */
    readonly moveOn: (
      fresh: Fresh,
      reason: string,
      taker: Taker,
    ) => Effect.Effect<Fresh | undefined, DatabaseError>
    /** Claims the rescue of a call that nobody has joined; `undefined` where it has moved on since it was seen. */
    readonly rescue: (
      seen: SeenCall,
      ghostsBeforeMs: number | undefined,
      taker: Taker,
    ) => Effect.Effect<Fresh | undefined, DatabaseError>
    /**
     * Stores how an attempt ended, however late, and what the stages took (ms) beside the explanation; returns the
     * call's state after it.
     */
    readonly settle: (
      lease: Lease,
      outcome: Outcome,
      tookMs?: Record<string, number>,
    ) => Effect.Effect<CallState | undefined, DatabaseError>
    /** Gives the call to whoever asks, unless somebody has it; `answer` is what a later join is told. */
    readonly ask: (ask: Ask, answer: string) => Effect.Effect<Asked, DatabaseError>
  }
>()("switchhook/dispatch/Ledger") {
  static readonly layer = Layer.effect(
    Ledger,
    Effect.gen(function* () {
      const database = yield* Database
      const clock = yield* theClock
      const scope = yield* Effect.scope

      const makeLease = (callRowId: string, claimId: string, attempt: number, askedAt: number): Lease => {
        // Counted from before the question was asked, this always ends before the database's own lease.
        let until = askedAt + leaseMs
        return {
          callRowId,
          claimId,
          attempt,
          isValid: () => monotonicMs(clock) < until,
          renew: Effect.suspend(() => {
            const renewedAt = monotonicMs(clock)
            return Effect.map(database.run(renewStatement(callRowId, claimId)), (rows) => {
              until = rows.length > 0 ? renewedAt + leaseMs : 0
              return rows.length > 0
            })
          }),
        }
      }

      // A claim or a change of worker whose answer was lost may stand in the row, and would look like a
      // hand-over that died; but nothing was sent.
      const abandon = (row: { readonly id: string } | { readonly key: string }, claimId: string) =>
        Effect.gen(function* () {
          const itself =
            "id" in row
              ? sql`c.id = ${row.id}::uuid`
              : sql`c.call_key = (SELECT n.call_key FROM call_aliases n WHERE n.alias = ${row.key}::text)`
          const rows = yield* database.run(
            sql<{ id: string; attempts: number }>`
              SELECT c.id, c.attempts FROM calls c WHERE ${itself} AND c.claim = ${claimId}::uuid`.compile(
              query,
            ),
          )
          if (rows[0] === undefined) return false
          const held = makeLease(rows[0].id, claimId, rows[0].attempts, 0)
          yield* database.run(settleStatement(held, new NotSent({ reason: "not connected" }), {}))
          return true
        }).pipe(
          Effect.orElseSucceed(() => false),
          Effect.repeat({ until: (found) => found, schedule: Schedule.exponential("250 millis"), times: 6 }),
          Effect.forkIn(scope),
        )

      const claim = Effect.fnUntraced(function* (input: Claiming): Effect.fn.Return<Claimed, DatabaseError> {
        const claimId = crypto.randomUUID()
        const statement = claimStatement({ ...input, rowId: crypto.randomUUID(), claimId })
        // Where another delivery writes the row at the same moment, only a second look shows what it wrote.
        let met = false
        for (let look = 0; look < 2; look++) {
          const askedAt = monotonicMs(clock)
          const rows = yield* database.run(statement).pipe(
            Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ key: input.call.key }, claimId)),
            Effect.catchIf(isRoomTaken, () => Effect.succeed([])),
          )
          const row = rows[0]
          met = row?.stale === true
          if (row?.room_taken === true) break
          if (row === undefined || row.stale) continue
          if (row.moved && (row.won || row.state === "waiting")) yield* input.announce ?? Effect.void
          if (row.moved) yield* tellChanges([row])
          if (!row.won) return toKnown(row)
          const held = makeLease(row.id, claimId, row.attempts, askedAt)
          if (row.resend) {
            const worker = { kind: "fleet", name: row.worker ?? "", url: row.worker_url ?? "" } as const
            return new Resend({ lease: held, worker })
          }
          const ghosts = row.ghosts_before_ms
          return new Fresh({
            lease: held,
            known: row.known,
            ghostsBeforeMs: ghosts === null ? undefined : Number(ghosts),
          })
        }
        return met
          ? new InFlightElsewhere()
          : new NotACall({ why: "no dispatch rule, and the room already holds a call" })
      })

      return Ledger.of({
        claim,
        moveOn: Effect.fnUntraced(function* (fresh, reason, taker) {
          const askedAt = monotonicMs(clock)
          const { callRowId, claimId } = fresh.lease
          const rows = yield* database
            .run(moveStatement(fresh.lease, reason, taker))
            .pipe(Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ id: callRowId }, claimId)))
          return rows[0] === undefined
            ? undefined
            : new Fresh({ ...fresh, lease: makeLease(callRowId, claimId, rows[0].attempt, askedAt) })
        }),
        rescue: Effect.fnUntraced(function* (seen, ghostsBeforeMs, taker) {
          const claimId = crypto.randomUUID()
          const askedAt = monotonicMs(clock)
          const rows = yield* database
            .run(rescueStatement(seen, claimId, taker))
            .pipe(Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ id: seen.id }, claimId)))
          const attempt = rows[0]?.attempts
          if (attempt === undefined) return undefined
          return new Fresh({
            lease: makeLease(seen.id, claimId, attempt, askedAt),
            known: true,
            ghostsBeforeMs,
          })
        }),
        settle: (held, outcome, tookMs = {}) =>
          Effect.map(database.run(settleStatement(held, outcome, tookMs)), (rows) => rows[0]?.state),
        ask: Effect.fnUntraced(function* (ask, answer) {
          const statement = askStatement(ask, crypto.randomUUID(), crypto.randomUUID(), answer)
          // Where a join writes the row at the same moment, only a second look shows what it wrote.
          for (let look = 0; look < 2; look++) {
            const row = (yield* database.run(statement))[0]
            if (row === undefined) continue
            if (row.moved) yield* tellChanges([row])
            return toAsked(row)
          }
          return new TakenAlready()
        }),
      })
    }),
  )
}
