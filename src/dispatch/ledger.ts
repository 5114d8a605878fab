// The ledger: one row per call key decides who may hand the call over, and what every other delivery is told.

import { Context, Data, Effect, Layer, Schedule } from "effect"
import { sql } from "kysely"
import { type Call, roomKey } from "../calls/call.ts"
import { isRoomTaken, keyNamed, ruleOf } from "../calls/call-row.ts"
import { madeNow, tellChanges } from "../calls/changes.ts"
import { newRowId } from "../calls/row-id.ts"
import { monotonicMs, theClock } from "../clock.ts"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { type CallState, query } from "../database/schema.ts"
import { together } from "../database/together.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import { type Ask, type AskedRow, askStatement } from "./ask-statement.ts"
import { Away, type Held, lookUp, namesOfCall } from "./away.ts"
import { type ClaimInput, type ClaimRow, claimStatement, newCalls } from "./claim-statement.ts"
import { type Lease, leaseMs } from "./lease.ts"
import { NotSent, type Outcome, outcomeNames } from "./outcome.ts"
import { makeRecent } from "./recent.ts"
import { rescueStatement, type SeenCall } from "./rescue-statement.ts"
import {
  moveStatement,
  renewStatement,
  type Settling,
  settleStatement,
  settlings,
} from "./settle-statements.ts"
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

const roomTaken = new NotACall({ why: "no dispatch rule, and the room already holds a call" })

const askAgainAfter = "100 millis"
const timesAskedAgain = 3

// LiveKit gives each event an id of its own; whoever sends in its place may not, and then only the same join is the same.
const nameOfEvent = ({ key, leg: { event, participant } }: Call): string =>
  event.id === "" ? "" : [event.id, key, participant.sid, participant.joinedAtMs].join(" ")

// A caller hears ringing meanwhile, and LiveKit waits for an answer.
const longestAskedMs = 5_000

/** What is known of a lease but its time. */
type LeaseOf = Omit<Lease, "isValid" | "renew">

/** What somebody is told who asks about a call that the database does not know yet. */
const askedOf = ({ metadata, state, taker }: Held, now: boolean): Asked =>
  taker?.kind === "agent" && state !== "waiting" && state !== "rejected"
    ? new GivenTo({ agent: taker.name, metadata: metadata ?? null, now })
    : new TakenAlready()

export class Ledger extends Context.Service<
  Ledger,
  {
    /**
     * Claims the call for the taker, or for nobody (`undefined`: it will be `Waiting`), or tells what is
     * known. `idempotentUrls` are the workers that may be sent the same request again.
     */
    readonly claim: (input: Claiming) => Effect.Effect<Claimed, DatabaseError>
    /** Notes a caller's leave, by the time of the join that it ends (ms): while the database is away, only this knows. */
    readonly callerLeft: (key: string, joinedAtMs: number) => void
    /** Notes how a hand-over has ended that this very event has begun. */
    readonly answered: (call: Call, outcome: Outcome) => void
    /**
     * What that event is told when it is delivered again, where its call was accepted: nobody takes that back, and what
     * it says of the call is written, so nothing is asked or written anew.
     */
    readonly answerTo: (call: Call) => AlreadyAccepted | undefined
    /** Whether the caller is known here to have left, be that written already or not. */
    readonly hasLeft: (call: Call) => boolean
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
      call: Call,
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
    /**
     * Gives the call to whoever asks, unless somebody has it; `answer` is what a later join is told. While the
     * database is away, or the number is `unknown` because of it, by what is known here.
     */
    readonly ask: (
      ask: Ask,
      answer: string,
      options: { readonly unknown: boolean },
    ) => Effect.Effect<Asked, DatabaseError>
    /** The same in the database, for what was kept while it was away. */
    readonly askNow: (ask: Ask, answer: string) => Effect.Effect<Asked, DatabaseError>
  }
>()("switchhook/dispatch/Ledger") {
  static readonly layerNoDeps = Layer.effect(
    Ledger,
    Effect.gen(function* () {
      const database = yield* Database
      const clock = yield* theClock
      const scope = yield* Effect.scope
      const away = yield* Away
      const recent = makeRecent()
      const claimNew = together(database, newCalls)
      const settleAs = {
        "not-sent": together(database, settlings["not-sent"]),
        accepted: together(database, settlings.accepted),
        rejected: together(database, settlings.rejected),
        ambiguous: together(database, settlings.ambiguous),
      }

      const makeLease = (held: LeaseOf, askedAt: number): Lease => {
        // Counted from before the question was asked, this always ends before the database's own lease.
        let until = askedAt + leaseMs
        const { callRowId, claimId } = held
        return {
          ...held,
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
          const itself = "id" in row ? sql`c.id = ${row.id}::uuid` : sql`c.call_key = ${keyNamed(row.key)}`
          const rows = yield* database.run(
            sql<{ id: string; attempts: number }>`
              SELECT c.id, c.attempts FROM calls c WHERE ${itself} AND c.claim = ${claimId}::uuid`.compile(
              query,
            ),
          )
          if (rows[0] === undefined) return false
          const held = { callRowId: rows[0].id, claimId, attempt: rows[0].attempts }
          yield* database.run(
            settleStatement({ held, outcome: new NotSent({ reason: "not connected" }), tookMs: {} }),
          )
          return true
        }).pipe(
          Effect.orElseSucceed(() => false),
          Effect.repeat({ until: (found) => found, schedule: Schedule.exponential("250 millis"), times: 6 }),
          Effect.forkIn(scope),
        )

      /**
       * Asks the database, again where it was only restarted; once it is known to be away, what can be done without
       * it. Every `ask` may be repeated: it names its claim.
       */
      const orAway = <A>(
        ask: (untilMs: number) => Effect.Effect<A, DatabaseError>,
        whileAway: Effect.Effect<A>,
      ): Effect.Effect<A, DatabaseError> =>
        Effect.suspend(() => {
          const untilMs = monotonicMs(clock) + longestAskedMs
          if (!database.reached()) return ask(untilMs)
          if (database.fault() !== undefined) return whileAway
          const asking = (more: number): Effect.Effect<A, DatabaseError> =>
            Effect.catchTag(ask(untilMs), "DatabaseUnavailable", (error) =>
              Effect.flatMap(database.isAway, (isAway) => {
                if (isAway) return whileAway
                return more === 0 || monotonicMs(clock) >= untilMs
                  ? Effect.fail(error)
                  : Effect.andThen(Effect.sleep(askAgainAfter), asking(more - 1))
              }),
            )
          return asking(timesAskedAgain)
        })

      const ofHeld = ({ attempt, claimId, names, rowId }: Held, key: string): Lease => ({
        key,
        names,
        callRowId: rowId,
        claimId,
        attempt,
        // Nobody else can take it, for nobody else can see it.
        isValid: () => true,
        renew: Effect.succeed(true),
      })

      const hasLeft = ({ key, leg }: Call) => recent.hasLeft(key, leg.participant.joinedAtMs)

      const claimAway = Effect.fnUntraced(function* (input: ClaimInput) {
        const { idempotentUrls: _, ...kept } = input
        const ended = recent.find(input.call.key)
        if (ended?._tag === "Accepted") return new AlreadyAccepted({ answer: ended.answer })
        if (ended?._tag === "Rejected") return new AlreadyRejected({ answer: ended.answer })
        if (hasLeft(input.call)) return new CallerLeft()
        if (ended?._tag === "Ambiguous") return new StillUncertain()
        const inRoom = recent.callIn(roomKey(input.call.leg.event))
        if (ruleOf(input.call) === "" && inRoom !== undefined && inRoom !== input.call.key) return roomTaken
        const held = yield* away.claim(kept)
        if (input.taker === undefined) return new Waiting()
        return new Fresh({
          lease: ofHeld(held, input.call.key),
          known: held.attempt > 1,
          ghostsBeforeMs: undefined,
        })
      })

      /** By what is known here of a call that the database does not know yet. */
      const claimHeld = (held: Held, input: ClaimInput): Effect.Effect<Claimed> => {
        const answer = held.answer ?? { status: 200, contentType: undefined, body: new Uint8Array() }
        switch (held.state) {
          case "accepted":
            return Effect.succeed(new AlreadyAccepted({ answer }))
          case "rejected":
            return Effect.succeed(new AlreadyRejected({ answer }))
          case "handing":
            return Effect.succeed(new InFlightElsewhere())
          case "uncertain": {
            if (hasLeft(input.call)) return Effect.succeed(new CallerLeft())
            const { taker } = held
            if (taker?.kind !== "fleet" || !input.idempotentUrls.includes(taker.url))
              return Effect.succeed(new StillUncertain())
            return Effect.succeed(new Resend({ lease: ofHeld(held, input.call.key), worker: taker }))
          }
          case "waiting":
            return claimAway(input)
        }
      }

      const claim = Effect.fnUntraced(function* (given: Claiming): Effect.fn.Return<Claimed, DatabaseError> {
        const { announce = Effect.void, ...told } = given
        const input = { ...told, rowId: newRowId(), claimId: crypto.randomUUID() }
        const held = away.find(lookUp.join(input.call))
        if (held !== undefined) return yield* claimHeld(held, input)
        return yield* orAway(
          (untilMs) => claimIn(input, untilMs, announce),
          Effect.andThen(announce, claimAway(input)),
          // Nobody hands it over by this claim: if it stands in the row, it must not look like a hand-over that died.
        ).pipe(
          Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ key: input.call.key }, input.claimId)),
          Effect.tap((claimed) =>
            Effect.sync(() => {
              if (claimed._tag === "Fresh") recent.enter(roomKey(input.call.leg.event), input.call.key)
            }),
          ),
        )
      })

      const claimIn = Effect.fnUntraced(function* (
        input: ClaimInput,
        untilMs: number,
        announce: Effect.Effect<void>,
      ): Effect.fn.Return<Claimed, DatabaseError> {
        const { claimId } = input
        const { key } = input.call
        const names = namesOfCall(input.call)
        // An answer that was lost may have been a yes: the lease counts from the first time it was asked for.
        const askedAt = untilMs - longestAskedMs
        const isOurs = (id: string, attempt: number) =>
          makeLease({ key, names, callRowId: id, claimId, attempt }, askedAt)
        const before = (ghosts: string | number | null) => (ghosts === null ? undefined : Number(ghosts))
        if (ruleOf(input.call) !== "") {
          const made = yield* claimNew(input, untilMs)
          if (made !== undefined) {
            yield* announce
            yield* tellChanges([madeNow(made)])
            if (input.taker === undefined) return new Waiting()
            const ghostsBeforeMs = before(made.ghosts_before_ms)
            return new Fresh({ lease: isOurs(made.id, 1), known: false, ghostsBeforeMs })
          }
        }
        let met = false
        // Where another delivery writes the row at the same moment, only a second look shows what it wrote.
        for (let look = 0; look < 2; look++) {
          const rows = yield* database
            .runUntil(claimStatement(input), untilMs)
            .pipe(Effect.catchIf(isRoomTaken, () => Effect.succeed([])))
          const row = rows[0]
          met = row?.stale === true
          if (row?.room_taken === true) break
          if (row === undefined || row.stale) continue
          if (row.moved && (row.won || row.state === "waiting")) yield* announce
          if (row.moved) yield* tellChanges([row])
          if (!row.won) return toKnown(row)
          const held = isOurs(row.id, row.attempts)
          if (row.resend) {
            const worker = { kind: "fleet", name: row.worker ?? "", url: row.worker_url ?? "" } as const
            return new Resend({ lease: held, worker })
          }
          return new Fresh({ lease: held, known: row.known, ghostsBeforeMs: before(row.ghosts_before_ms) })
        }
        return met ? new InFlightElsewhere() : roomTaken
      })

      const askIn = Effect.fnUntraced(function* (
        ask: Ask,
        answer: string,
        untilMs: number,
      ): Effect.fn.Return<Asked, DatabaseError> {
        const statement = askStatement(ask, newRowId(), crypto.randomUUID(), answer)
        // Where a join writes the row at the same moment, only a second look shows what it wrote.
        for (let look = 0; look < 2; look++) {
          const row = (yield* database.runUntil(statement, untilMs))[0]
          if (row === undefined) continue
          if (row.moved) yield* tellChanges([row])
          return toAsked(row)
        }
        return new TakenAlready()
      })

      return Ledger.of({
        claim,
        callerLeft: recent.leave,
        answered: (call, outcome) => {
          if (outcome._tag === "Accepted") recent.answer(nameOfEvent(call), outcome.answer)
        },
        answerTo: (call) => {
          const answer = recent.answerTo(nameOfEvent(call))
          return answer && new AlreadyAccepted({ answer })
        },
        hasLeft,
        moveOn: Effect.fnUntraced(function* (fresh, reason, taker) {
          const askedAt = monotonicMs(clock)
          const { lease } = fresh
          const { callRowId, claimId } = lease
          if (away.has(lease)) {
            const held = yield* away.moveOn(lease, reason, taker)
            return held && new Fresh({ ...fresh, lease: ofHeld(held, lease.key) })
          }
          const rows = yield* database
            .run(moveStatement(fresh.lease, reason, taker))
            .pipe(Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ id: callRowId }, claimId)))
          return rows[0] === undefined
            ? undefined
            : new Fresh({ ...fresh, lease: makeLease({ ...lease, attempt: rows[0].attempt }, askedAt) })
        }),
        rescue: Effect.fnUntraced(function* (call, seen, ghostsBeforeMs, taker) {
          const claimId = crypto.randomUUID()
          const askedAt = monotonicMs(clock)
          const rows = yield* database
            .run(rescueStatement(seen, claimId, taker))
            .pipe(Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ id: seen.id }, claimId)))
          const attempt = rows[0]?.attempts
          if (attempt === undefined) return undefined
          return new Fresh({
            lease: makeLease(
              { key: call.key, names: namesOfCall(call), callRowId: seen.id, claimId, attempt },
              askedAt,
            ),
            known: true,
            ghostsBeforeMs,
          })
        }),
        settle: Effect.fnUntraced(function* (lease, outcome, tookMs = {}) {
          recent.remember(lease.key, outcome)
          const kept = Effect.as(away.settle(lease, outcome, tookMs), undefined)
          if (away.has(lease)) return yield* kept
          const settling: Settling = { held: lease, outcome, tookMs }
          const stored = (untilMs: number) =>
            Effect.map(settleAs[outcomeNames[outcome._tag]](settling, untilMs), (row) => row?.state)
          // Whatever the database says, how it ended must not be lost.
          return yield* Effect.catchTag(orAway(stored, kept), "DatabaseUnavailable", () => kept)
        }),
        ask: Effect.fnUntraced(function* (ask, answer, { unknown }) {
          const held = away.find(lookUp.ask(ask))
          if (held !== undefined) return askedOf(held, false)
          const whileAway = Effect.map(away.ask(ask, answer), (one) => askedOf(one, true))
          // Nothing stops a call: whoever asks is answered though the database was never reached.
          if (unknown || !database.reached()) return yield* whileAway
          return yield* orAway((untilMs) => askIn(ask, answer, untilMs), whileAway)
        }),
        askNow: (ask, answer) =>
          Effect.suspend(() => askIn(ask, answer, monotonicMs(clock) + longestAskedMs)),
      })
    }),
  )

  static readonly layer = Layer.provide(Ledger.layerNoDeps, Away.layer)
}
