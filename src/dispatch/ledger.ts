// The ledger: one row per call key decides who may hand the call over, and what every other delivery is told.

import { hostname } from "node:os"
import { Context, Data, Effect, Layer, Schedule } from "effect"
import { type RawBuilder, sql } from "kysely"
import { monotonicMs, theClock } from "../clock.ts"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { type CallState, query, storable, storableJson } from "../database/schema.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import { type Call, callKey, type LegEvent, roomKey } from "./call.ts"
import { NotSent, type Outcome, outcomeNames } from "./outcome.ts"

/** A worker as the ledger names it. */
export interface WorkerRef {
  readonly name: string
  readonly url: string
}

/** The lease on one hand-over. Only whoever holds it may send, and only while it is valid. */
export interface Lease {
  readonly callRowId: string
  readonly claimId: string
  readonly attempt: number
  /** False as soon as another replica could take the call; never true for longer than the database says. */
  readonly isValid: () => boolean
  /** Extends it; false once it was lost. */
  readonly renew: Effect.Effect<boolean, DatabaseError>
}

/** The call is ours, nothing of it was ever sent, and the row names the worker. */
export class Fresh extends Data.TaggedClass("Fresh")<{ readonly lease: Lease }> {}

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

interface ClaimRow {
  readonly id: string
  readonly state: CallState
  readonly won: boolean
  readonly attempt: number
  readonly resend: boolean
  readonly lease_valid: boolean
  readonly left: boolean
  readonly outbound: boolean
  /** Read as it was before another delivery changed it: by what it says, the claim would have succeeded. */
  readonly stale: boolean
  /** Only its leave was known, it has no dispatch rule, and meanwhile its room holds somebody else. */
  readonly room_taken: boolean
  readonly worker: string | null
  readonly worker_url: string | null
  readonly answer_status: number | null
  readonly answer_type: string | null
  readonly answer_body: Uint8Array | null
}

const leaseMs = 3_000
const lease = sql<Date>`clock_timestamp() + ${sql.lit(`${leaseMs} milliseconds`)}::interval`

/** Who this process is in `calls.owner`, for a person who reads the table. */
const replica = `${hostname()}:${process.pid}`

interface ClaimInput {
  readonly call: Call
  readonly rowId: string
  readonly claimId: string
  readonly worker: WorkerRef | undefined
  readonly idempotentUrls: ReadonlyArray<string>
  readonly explanation: unknown
}

// One statement. Everything that decides is read from the row itself (`c`), which PostgreSQL locks and reads
// anew where two deliveries meet, so that the second sees what the first has stored.
const claimStatement = (input: ClaimInput) => {
  const { call, claimId, worker } = input
  const { event, participant } = call.leg
  const { key } = call
  const room = roomKey(event)
  const joined = sql<number>`${participant.joinedAtMs}::bigint`
  const workerUrl = sql<string | null>`${worker?.url ?? null}::text`
  const workerName = sql<string | null>`${worker?.name ?? null}::text`
  const ruleId = participant.attributes.get("sip.ruleID") ?? ""
  const text = (value: string) => sql<string>`${storable(value)}::text`

  const left = sql<boolean>`coalesce(c.caller_left_ms >= ${joined}, false)`
  const lapsed = sql<boolean>`(c.state = 'handing' AND c.lease_until <= clock_timestamp())`
  const inbound = sql<boolean>`c.direction IS DISTINCT FROM 'outbound'`
  const untouched = sql<boolean>`c.state IN ('none', 'waiting')`
  const takesFresh = sql<boolean>`(${untouched} AND ${workerUrl} IS NOT NULL)`
  const takesAgain = sql<boolean>`((c.state = 'uncertain' OR (${lapsed} AND c.answer_status IS NULL))
    AND c.worker_url = ANY (${input.idempotentUrls}::text[]))`
  const takes = sql<boolean>`(${inbound} AND NOT ${left} AND (${takesFresh} OR ${takesAgain}))`
  // Without a rule a leg keeps its room only once it was claimed as an inbound call.
  const mayHold = sql<boolean>`(${ruleId !== ""}::boolean OR coalesce(c.direction = 'inbound', false))`
  const begins = sql<boolean>`(${inbound} AND NOT ${left} AND c.state = 'none')`
  const when = <A>(condition: RawBuilder<boolean>, then: RawBuilder<A>, otherwise: RawBuilder<A>) =>
    sql<A>`CASE WHEN ${condition} THEN ${then} ELSE ${otherwise} END`

  const columns = sql`c.id, c.state, c.claim = ${claimId}::uuid AND c.state = 'handing' AS won, c.attempts AS attempt,
    c.attempts - 1 > c.unsent AS resend, coalesce(c.lease_until > clock_timestamp(), false) AS lease_valid,
    ${left} AS "left", c.direction = 'outbound' AS outbound, c.worker, c.worker_url,
    c.answer_status, c.answer_type, c.answer_body`

  return sql<ClaimRow>`
    WITH claimed AS (
      INSERT INTO calls AS c (
        id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, caller_joined_ms, direction,
        caller, dialed, trunk_id, rule_id, sip_call_id, sip_call_id_full, participant_identity,
        room_key, room_name, room_sid, target, explanation, claimed_at
      )
      SELECT
        ${input.rowId}::uuid, ${key}::text, CASE WHEN ${workerUrl} IS NULL THEN 'waiting' ELSE 'handing' END,
        ${claimId}::uuid, ${replica}::text, ${lease}, CASE WHEN ${workerUrl} IS NULL THEN 0 ELSE 1 END,
        ${workerName}, ${workerUrl}, ${joined}, 'inbound',
        ${text(call.callerNumber)}, ${text(call.dialedNumber)}, ${text(call.trunkId)}, ${text(ruleId)},
        ${text(call.callId)}, ${text(participant.attributes.get("sip.callIDFull") ?? "")},
        ${text(participant.identity)}, ${room}::text, ${text(event.room.name)}, ${text(event.room.sid)}, 'fleet',
        ${storableJson(input.explanation)}::jsonb, clock_timestamp()
      WHERE ${ruleId !== ""}::boolean
        OR NOT EXISTS (SELECT 1 FROM calls o WHERE o.room_key = ${room}::text AND o.call_key <> ${key}::text)
        OR EXISTS (SELECT 1 FROM calls o WHERE o.call_key = ${key}::text AND o.direction = 'inbound')
      ON CONFLICT (call_key) DO UPDATE SET
        state = CASE
          WHEN ${takes} THEN 'handing'
          WHEN ${lapsed} THEN CASE WHEN c.answer_status IS NULL THEN 'uncertain' ELSE 'rejected' END
          WHEN ${begins} THEN 'waiting'
          ELSE c.state END,
        claim = ${when(takes, sql`excluded.claim`, sql`c.claim`)},
        owner = ${when(takes, sql`excluded.owner`, sql`c.owner`)},
        lease_until = ${when(takes, sql`excluded.lease_until`, sql`c.lease_until`)},
        attempts = c.attempts + ${when(takes, sql`1`, sql`0`)},
        worker = CASE WHEN ${takes} AND ${untouched} THEN excluded.worker ELSE c.worker END,
        worker_url = CASE WHEN ${takes} AND ${untouched} THEN excluded.worker_url ELSE c.worker_url END,
        explanation = ${when(takes, sql`excluded.explanation`, sql`coalesce(c.explanation, excluded.explanation)`)},
        caller_joined_ms = greatest(c.caller_joined_ms, excluded.caller_joined_ms),
        direction = coalesce(c.direction, excluded.direction),
        caller = coalesce(c.caller, excluded.caller),
        dialed = coalesce(c.dialed, excluded.dialed),
        trunk_id = coalesce(c.trunk_id, excluded.trunk_id),
        rule_id = coalesce(c.rule_id, excluded.rule_id),
        sip_call_id = coalesce(c.sip_call_id, excluded.sip_call_id),
        sip_call_id_full = coalesce(c.sip_call_id_full, excluded.sip_call_id_full),
        participant_identity = coalesce(c.participant_identity, excluded.participant_identity),
        target = coalesce(c.target, excluded.target),
        claimed_at = ${when(takes, sql`excluded.claimed_at`, sql`coalesce(c.claimed_at, excluded.claimed_at)`)}
      WHERE ${takes} OR ${lapsed} OR ${begins} OR c.caller_joined_ms IS NULL OR c.caller_joined_ms < ${joined}
      RETURNING ${columns}
    ), attempt AS (
      INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url)
      SELECT id, attempt, ${claimId}::uuid, worker, worker_url FROM claimed WHERE won
    )
    SELECT *, false AS stale, false AS room_taken FROM claimed
    UNION ALL
    SELECT ${columns}, ${takes} AND ${mayHold} AS stale, ${takes} AND NOT ${mayHold} AS room_taken FROM calls c
    WHERE c.call_key = ${key}::text AND NOT EXISTS (SELECT 1 FROM claimed)
  `.compile(query)
}

const leaveStatement = (leg: LegEvent, rowId: string) => {
  const { event, participant } = leg
  const joined = sql<number>`${participant.joinedAtMs}::bigint`
  return sql`
    INSERT INTO calls AS c (id, call_key, state, caller_left_ms, room_key, room_name, room_sid)
    VALUES (${rowId}::uuid, ${callKey(leg)}::text, 'none', ${joined}, ${roomKey(event)}::text,
      ${storable(event.room.name)}::text, ${storable(event.room.sid)}::text)
    ON CONFLICT (call_key) DO UPDATE SET caller_left_ms = excluded.caller_left_ms
    WHERE c.caller_left_ms IS NULL OR c.caller_left_ms < excluded.caller_left_ms
  `.compile(query)
}

const outboundStatement = (leg: LegEvent, rowId: string) => {
  const { event, participant } = leg
  return sql`
    INSERT INTO calls AS c (id, call_key, state, direction, sip_call_id, participant_identity,
      room_key, room_name, room_sid)
    VALUES (${rowId}::uuid, ${callKey(leg)}::text, 'none', 'outbound',
      ${storable(participant.attributes.get("sip.callID") ?? "")}::text, ${storable(participant.identity)}::text,
      ${roomKey(event)}::text, ${storable(event.room.name)}::text, ${storable(event.room.sid)}::text)
    ON CONFLICT (call_key) DO UPDATE SET direction = 'outbound' WHERE c.direction IS NULL
  `.compile(query)
}

const renewStatement = (rowId: string, claimId: string) =>
  sql<{ id: string }>`
    UPDATE calls SET lease_until = ${lease}
    WHERE id = ${rowId}::uuid AND claim = ${claimId}::uuid AND state = 'handing' AND lease_until > clock_timestamp()
    RETURNING id
  `.compile(query)

// The row names the next worker before its first byte leaves; never once anything of the call was sent.
const moveStatement = (held: Lease, reason: string, worker: WorkerRef) =>
  sql<{ attempt: number }>`
    WITH moved AS (
      UPDATE calls SET unsent = unsent + 1, attempts = attempts + 1, lease_until = ${lease},
        worker = ${worker.name}::text, worker_url = ${worker.url}::text
      WHERE id = ${held.callRowId}::uuid AND claim = ${held.claimId}::uuid AND state = 'handing'
        AND lease_until > clock_timestamp() AND attempts = ${held.attempt}::integer AND attempts = unsent + 1
      RETURNING id, claim, attempts, worker, worker_url
    ), gone AS (
      UPDATE dispatch_attempts d SET outcome = 'not-sent', reason = ${reason}::text, ended_at = clock_timestamp()
      FROM moved WHERE d.call_id = moved.id AND d.attempt = ${held.attempt}::integer
    )
    INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url)
    SELECT id, attempts, claim, worker, worker_url FROM moved
    RETURNING attempt
  `.compile(query)

// The state follows from what all attempts of the call have ended in, whatever the order in which that
// becomes known: accepted, else whoever still runs decides, else rejected, else uncertain, else waiting.
const settleStatement = (held: Lease, outcome: Outcome) => {
  const name = outcomeNames[outcome._tag]
  const answer = "answer" in outcome ? outcome.answer : undefined
  const reason = "reason" in outcome ? outcome.reason : null
  const unsent = sql<number>`c.unsent + ${name === "not-sent" ? 1 : 0}::integer`
  // The first accepted answer stays, else the first rejected one.
  const stores =
    name === "accepted"
      ? sql<boolean>`c.state <> 'accepted'`
      : sql<boolean>`${name === "rejected"}::boolean AND c.answer_status IS NULL`
  return sql<{ state: CallState }>`
    WITH ended AS (
      UPDATE dispatch_attempts SET outcome = ${name}::text, status = ${answer?.status ?? null}::integer,
        reason = ${reason}::text, ended_at = clock_timestamp()
      WHERE call_id = ${held.callRowId}::uuid AND attempt = ${held.attempt}::integer AND outcome IS NULL
      RETURNING call_id
    )
    UPDATE calls c SET
      unsent = ${unsent},
      state = CASE
        WHEN ${name === "accepted"}::boolean OR c.state = 'accepted' THEN 'accepted'
        WHEN c.state = 'handing' AND c.claim <> ${held.claimId}::uuid THEN 'handing'
        WHEN ${name === "rejected"}::boolean OR c.answer_status IS NOT NULL THEN 'rejected'
        WHEN ${unsent} = c.attempts THEN 'waiting'
        ELSE 'uncertain' END,
      outcome = CASE WHEN c.state = 'accepted' THEN c.outcome ELSE ${name}::text END,
      answer_status = CASE WHEN ${stores} THEN ${answer?.status ?? null}::integer ELSE c.answer_status END,
      answer_type = CASE WHEN ${stores} THEN ${storable(answer?.contentType ?? "")}::text ELSE c.answer_type END,
      answer_body = CASE WHEN ${stores} THEN ${answer?.body ?? null}::bytea ELSE c.answer_body END,
      settled_at = clock_timestamp()
    FROM ended WHERE c.id = ended.call_id
    RETURNING c.state
  `.compile(query)
}

const storedAnswer = (row: ClaimRow): WorkerAnswer => ({
  status: row.answer_status ?? 200,
  contentType: row.answer_type || undefined,
  body: row.answer_body ?? new Uint8Array(),
})

const toKnown = (row: ClaimRow): Known | Waiting => {
  if (row.outbound) return new NotACall({ why: "outbound leg" })
  if (row.state === "accepted") return new AlreadyAccepted({ answer: storedAnswer(row) })
  if (row.state === "rejected") return new AlreadyRejected({ answer: storedAnswer(row) })
  if (row.state === "handing" && row.lease_valid) return new InFlightElsewhere()
  if (row.left) return new CallerLeft()
  return row.state === "waiting" || row.state === "none" ? new Waiting() : new StillUncertain()
}

const isRoomTaken = (error: DatabaseError) =>
  error._tag === "QueryRefused" && error.constraint === "calls_one_leg_without_rule"

export class Ledger extends Context.Service<
  Ledger,
  {
    /**
     * Claims the call for the worker, or for nobody (`undefined`: it will be `Waiting`), or tells what is
     * known. `idempotentUrls` are the workers that may be sent the same request again.
     */
    readonly claim: (input: Omit<ClaimInput, "rowId" | "claimId">) => Effect.Effect<Claimed, DatabaseError>
    /**
     * Ends the attempt of a fresh hand-over as not sent and names the next worker; `undefined` where the lease
     * was lost, and nothing may be sent any more.
     */
    readonly moveOn: (
      fresh: Fresh,
      reason: string,
      worker: WorkerRef,
    ) => Effect.Effect<Fresh | undefined, DatabaseError>
    /** Stores how an attempt ended, however late; returns the call's state after it. */
    readonly settle: (lease: Lease, outcome: Outcome) => Effect.Effect<CallState | undefined, DatabaseError>
    /** The caller's leg has left: beats `waiting` and `uncertain` until it joins again. */
    readonly recordLeave: (leg: LegEvent) => Effect.Effect<void, DatabaseError>
    /** A leg that we called: never handed over, and its room is taken. */
    readonly recordOutbound: (leg: LegEvent) => Effect.Effect<void, DatabaseError>
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
      const abandon = (row: { readonly id: string } | { readonly call_key: string }, claimId: string) =>
        Effect.gen(function* () {
          const rows = yield* database.run(
            query
              .selectFrom("calls")
              .select(["id", "attempts"])
              .where((is) => ("id" in row ? is("id", "=", row.id) : is("call_key", "=", row.call_key)))
              .where("claim", "=", claimId),
          )
          if (rows[0] === undefined) return false
          const held = makeLease(rows[0].id, claimId, rows[0].attempts, 0)
          yield* database.run(settleStatement(held, new NotSent({ reason: "not connected" })))
          return true
        }).pipe(
          Effect.orElseSucceed(() => false),
          Effect.repeat({ until: (found) => found, schedule: Schedule.exponential("250 millis"), times: 6 }),
          Effect.forkIn(scope),
        )

      const claim = Effect.fnUntraced(function* (
        input: Omit<ClaimInput, "rowId" | "claimId">,
      ): Effect.fn.Return<Claimed, DatabaseError> {
        const claimId = crypto.randomUUID()
        const statement = claimStatement({ ...input, rowId: crypto.randomUUID(), claimId })
        // Where another delivery writes the row at the same moment, only a second look shows what it wrote.
        let met = false
        for (let look = 0; look < 2; look++) {
          const askedAt = monotonicMs(clock)
          const rows = yield* database.run(statement).pipe(
            Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ call_key: input.call.key }, claimId)),
            Effect.catchIf(isRoomTaken, () => Effect.succeed([])),
          )
          const row = rows[0]
          met = row?.stale === true
          if (row?.room_taken === true) break
          if (row === undefined || row.stale) continue
          if (!row.won) return toKnown(row)
          const held = makeLease(row.id, claimId, row.attempt, askedAt)
          return row.resend
            ? new Resend({ lease: held, worker: { name: row.worker ?? "", url: row.worker_url ?? "" } })
            : new Fresh({ lease: held })
        }
        return met
          ? new InFlightElsewhere()
          : new NotACall({ why: "no dispatch rule, and the room already holds a call" })
      })

      return Ledger.of({
        claim,
        moveOn: Effect.fnUntraced(function* (fresh, reason, worker) {
          const askedAt = monotonicMs(clock)
          const { callRowId, claimId } = fresh.lease
          const rows = yield* database
            .run(moveStatement(fresh.lease, reason, worker))
            .pipe(Effect.tapErrorTag("DatabaseUnavailable", () => abandon({ id: callRowId }, claimId)))
          return rows[0] === undefined
            ? undefined
            : new Fresh({ lease: makeLease(callRowId, claimId, rows[0].attempt, askedAt) })
        }),
        settle: (held, outcome) =>
          Effect.map(database.run(settleStatement(held, outcome)), (rows) => rows[0]?.state),
        recordLeave: (leg) => Effect.asVoid(database.run(leaveStatement(leg, crypto.randomUUID()))),
        recordOutbound: (leg) => Effect.asVoid(database.run(outboundStatement(leg, crypto.randomUUID()))),
      })
    }),
  )
}
