// The ledger: one row per call key decides who may hand the call over, and what every other delivery is told.

import { hostname } from "node:os"
import { Context, Data, Effect, Layer, Schedule } from "effect"
import { type RawBuilder, sql } from "kysely"
import { type Call, indexed, roomKey } from "../calls/call.ts"
import { keyOfLeg, legColumns, mergesOf, namesOf, ruleOf, valuesOf } from "../calls/call-row.ts"
import { changeColumns, type LogChange, tellChanges } from "../calls/changes.ts"
import { monotonicMs, theClock } from "../clock.ts"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { type CallState, query, storable, storableJson } from "../database/schema.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import type { Decision } from "../routing/decision.ts"
import { routeOf } from "./explanation.ts"
import { NotSent, type Outcome, outcomeNames } from "./outcome.ts"

/** A worker as the ledger names it. */
export interface WorkerRef {
  readonly kind: "fleet"
  readonly name: string
  readonly url: string
}

/** An agent as the ledger names it. */
export interface AgentRef {
  readonly kind: "agent"
  readonly name: string
}

/** Whoever is to have the call. */
export type Taker = WorkerRef | AgentRef

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

interface ClaimRow extends LogChange {
  readonly id: string
  readonly state: CallState
  readonly won: boolean
  readonly attempts: number
  readonly resend: boolean
  readonly lease_valid: boolean
  readonly left: boolean
  readonly known: boolean
  readonly ghosts_before_ms: string | number | null
  /** False where nothing was written. */
  readonly moved: boolean
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
  readonly taker: Taker | undefined
  readonly idempotentUrls: ReadonlyArray<string>
  readonly explanation: unknown
  /** Said of a call that is new here, before anything else is. */
  readonly announce?: Effect.Effect<void>
}

const when = <A>(condition: RawBuilder<boolean>, then: RawBuilder<A>, otherwise: RawBuilder<A>) =>
  sql<A>`CASE WHEN ${condition} THEN ${then} ELSE ${otherwise} END`

const urlOf = (taker: Taker | undefined) =>
  sql<string | null>`${taker?.kind === "fleet" ? taker.url : null}::text`
const workerOf = (taker: Taker | undefined) =>
  sql<string | null>`${taker?.kind === "fleet" ? taker.name : null}::text`
const agentOf = (taker: Taker | undefined) =>
  sql<string | null>`${taker?.kind === "agent" ? storable(taker.name) : null}::text`

// One statement. Everything that decides is read from the row itself (`c`), which PostgreSQL locks and reads
// anew where two deliveries meet, so that the second sees what the first has stored.
const claimStatement = (input: ClaimInput) => {
  const { call, claimId, taker } = input
  const { event, participant } = call.leg
  const columns = legColumns(call, "inbound")
  const room = roomKey(event)
  const joined = sql<number>`${participant.joinedAtMs}::bigint`
  const target = taker?.kind ?? call.decision.target
  const hasRule = sql<boolean>`${ruleOf(call) !== ""}::boolean`

  const left = sql<boolean>`coalesce(c.caller_left_ms >= ${joined}, false)`
  const lapsed = sql<boolean>`(c.state = 'handing' AND c.lease_until <= clock_timestamp())`
  const inbound = sql<boolean>`c.direction IS DISTINCT FROM 'outbound'`
  const untouched = sql<boolean>`c.state IN ('none', 'waiting')`
  const takesFresh = sql<boolean>`(${untouched} AND ${taker !== undefined}::boolean)`
  const takesAgain = sql<boolean>`((c.state = 'uncertain' OR (${lapsed} AND c.answer_status IS NULL))
    AND coalesce(c.worker_url = ANY (${input.idempotentUrls}::text[]), false))`
  const takes = sql<boolean>`(${inbound} AND NOT ${left} AND (${takesFresh} OR ${takesAgain}))`
  const takesNew = sql<boolean>`(${takes} AND ${untouched})`
  // Without a rule a leg keeps its room only once it was claimed as an inbound call.
  const mayHold = sql<boolean>`(${hasRule} OR coalesce(c.direction = 'inbound', false))`
  const begins = sql<boolean>`(${inbound} AND NOT ${left} AND c.state = 'none')`

  const verdict = sql`c.id, c.state, c.claim = ${claimId}::uuid AND c.state = 'handing' AS won, c.attempts,
    c.attempts - 1 > c.unsent AS resend, coalesce(c.lease_until > clock_timestamp(), false) AS lease_valid,
    ${left} AS "left", c.worker, c.worker_url, c.answer_status, c.answer_type, c.answer_body,
    before.claimed_at IS NOT NULL AS known,
    (SELECT CASE WHEN s.restarted_at_ms > s.started_at_ms THEN s.restarted_at_ms - 2000 END
      FROM sessions s WHERE s.room_key = ${room}::text) AS ghosts_before_ms,
    ${changeColumns("before", "c")}`

  return sql<ClaimRow>`
    WITH who AS MATERIALIZED (SELECT ${keyOfLeg(call)} AS key),
    before AS (SELECT b.* FROM calls b, who WHERE b.call_key = who.key),
    claimed AS (
      INSERT INTO calls AS c (
        id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, agent_name, metadata, target,
        explanation, claimed_at, ${namesOf(columns)}
      )
      SELECT
        ${input.rowId}::uuid, who.key, ${taker === undefined ? "waiting" : "handing"}::text,
        ${claimId}::uuid, ${replica}::text, ${lease}, ${taker === undefined ? 0 : 1}::integer,
        ${workerOf(taker)}, ${urlOf(taker)}, ${agentOf(taker)}, ${call.decision.metadata}::text, ${target}::text,
        ${storableJson(input.explanation)}::jsonb, clock_timestamp(), ${valuesOf(columns)}
      FROM who
      WHERE ${hasRule}
        OR NOT EXISTS (SELECT 1 FROM calls o WHERE o.room_key = ${room}::text AND o.call_key <> who.key)
        OR EXISTS (SELECT 1 FROM calls o WHERE o.call_key = who.key AND o.direction = 'inbound')
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
        worker = ${when(takesNew, sql`excluded.worker`, sql`c.worker`)},
        worker_url = ${when(takesNew, sql`excluded.worker_url`, sql`c.worker_url`)},
        agent_name = ${when(takesNew, sql`excluded.agent_name`, sql`c.agent_name`)},
        target = ${when(takesNew, sql`excluded.target`, sql`coalesce(c.target, excluded.target)`)},
        metadata = coalesce(c.metadata, excluded.metadata),
        explanation = ${when(takes, sql`excluded.explanation`, sql`coalesce(c.explanation, excluded.explanation)`)},
        claimed_at = ${when(takes, sql`excluded.claimed_at`, sql`coalesce(c.claimed_at, excluded.claimed_at)`)},
        ${mergesOf(columns)}
      WHERE ${takes} OR ${lapsed} OR ${begins} OR c.direction IS NULL
        OR c.caller_joined_ms IS NULL OR c.caller_joined_ms < ${joined}
        OR (c.room_sid IS DISTINCT FROM excluded.room_sid AND coalesce(c.room_sid, '') = '')
      RETURNING c.*
    ), attempt AS (
      INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url)
      SELECT id, attempts, ${claimId}::uuid, target, coalesce(worker, agent_name), worker_url FROM claimed
      WHERE claim = ${claimId}::uuid AND state = 'handing'
    )
    SELECT ${verdict}, true AS moved, false AS stale, false AS room_taken
    FROM claimed c LEFT JOIN before ON true
    UNION ALL
    SELECT ${verdict}, false AS moved, ${takes} AND ${mayHold} AS stale, ${takes} AND NOT ${mayHold} AS room_taken
    FROM who JOIN calls c ON c.call_key = who.key LEFT JOIN before ON true
    WHERE NOT EXISTS (SELECT 1 FROM claimed)
  `.compile(query)
}

/** What somebody asks who will dispatch the agent that we name. */
export interface Ask {
  /** Their id of the call, as it is looked up. */
  readonly key: string
  readonly askedId: string
  readonly roomName: string
  readonly meeting: string
  readonly from: string
  readonly to: string
  readonly trunkId: string
  readonly decision: Decision
}

interface AskedRow extends LogChange {
  readonly state: CallState
  readonly agent_name: string | null
  readonly metadata: string | null
  readonly left: boolean
  readonly moved: boolean
  readonly taken_now: boolean
}

// Whoever asks has the call from now on, if nobody had it: it counts as accepted. One statement, like the claim.
const askStatement = (ask: Ask, rowId: string, claimId: string, answer: string) => {
  const { decision } = ask
  const text = (value: string | undefined) => sql`${value === undefined ? null : storable(value)}::text`
  const left = sql<boolean>`coalesce(c.caller_left_ms >= coalesce(c.caller_joined_ms, c.caller_left_ms), false)`
  const takes = sql<boolean>`(c.state IN ('none', 'waiting') AND c.direction IS DISTINCT FROM 'outbound' AND NOT ${left})`
  const taken = (name: string) =>
    sql`${sql.raw(name)} = CASE WHEN ${takes} THEN ${sql.raw(`excluded.${name}`)} ELSE ${sql.raw(`c.${name}`)} END`
  const kept = (name: string) => sql`${sql.raw(name)} = coalesce(${sql.raw(`c.${name}, excluded.${name}`)})`
  const claimed = ["state", "claim", "owner", "target", "agent_name", "metadata", "outcome", "answer_status"]
  const facts = ["asked_id", "direction", "caller", "caller_e164", "dialed", "dialed_e164", "trunk_id"]
  const verdict = sql`c.state, c.agent_name, c.metadata, ${left} AS "left",
    coalesce(c.claim = ${claimId}::uuid, false) AS taken_now, ${changeColumns("before", "c")}`
  return sql<AskedRow>`
    WITH who AS MATERIALIZED (
      SELECT call_key_of(${ask.key}::text, ${[ask.key]}::text[], ${ask.meeting}::text, true) AS key
    ),
    before AS (SELECT b.* FROM calls b, who WHERE b.call_key = who.key),
    asked AS (
      INSERT INTO calls AS c (
        id, call_key, state, claim, owner, target, agent_name, metadata, outcome, answer_status, answer_type,
        answer_body, claimed_at, settled_at, asked_id, direction, caller, caller_e164, dialed, dialed_e164, trunk_id,
        tenant_id, campaign_id, did_id, room_key, room_name, explanation
      )
      SELECT ${rowId}::uuid, who.key, 'accepted', ${claimId}::uuid, ${replica}::text, 'agent',
        ${text(decision.agent.name)}, ${decision.metadata}::text, 'accepted', 200, 'application/json',
        convert_to(${answer}::text, 'UTF8'), clock_timestamp(), clock_timestamp(), ${text(ask.askedId)}, 'inbound',
        ${text(ask.from)}, ${text(decision.callerE164)}, ${text(ask.to)}, ${text(decision.dialedE164)},
        ${text(ask.trunkId)}, ${decision.tenantId ?? null}::uuid, ${decision.campaignId ?? null}::uuid,
        ${decision.didId ?? null}::uuid, ${indexed(ask.roomName)}::text, ${text(ask.roomName)},
        ${storableJson({ route: routeOf(decision) })}::jsonb
      FROM who
      ON CONFLICT (call_key) DO UPDATE SET
        ${sql.join(claimed.map(taken))}, ${sql.join(["answer_type", "answer_body", "settled_at"].map(taken))},
        ${sql.join([...facts, "tenant_id", "campaign_id", "did_id", "explanation", "claimed_at"].map(kept))}
      WHERE ${takes} OR c.asked_id IS NULL
      RETURNING c.*
    )
    SELECT ${verdict}, true AS moved FROM asked c LEFT JOIN before ON true
    UNION ALL
    SELECT ${verdict}, false AS moved FROM who JOIN calls c ON c.call_key = who.key LEFT JOIN before ON true
    WHERE NOT EXISTS (SELECT 1 FROM asked)
  `.compile(query)
}

const renewStatement = (rowId: string, claimId: string) =>
  sql<{ id: string }>`
    UPDATE calls SET lease_until = ${lease}
    WHERE id = ${rowId}::uuid AND claim = ${claimId}::uuid AND state = 'handing' AND lease_until > clock_timestamp()
    RETURNING id
  `.compile(query)

// The row names the next taker before its first byte leaves; never once anything of the call was sent.
const moveStatement = (held: Lease, reason: string, taker: Taker) =>
  sql<{ attempt: number }>`
    WITH moved AS (
      UPDATE calls SET unsent = unsent + 1, attempts = attempts + 1, lease_until = ${lease}, target = ${taker.kind}::text,
        worker = ${workerOf(taker)}, worker_url = ${urlOf(taker)}, agent_name = ${agentOf(taker)}
      WHERE id = ${held.callRowId}::uuid AND claim = ${held.claimId}::uuid AND state = 'handing'
        AND lease_until > clock_timestamp() AND attempts = ${held.attempt}::integer AND attempts = unsent + 1
      RETURNING *
    ), gone AS (
      UPDATE dispatch_attempts d SET outcome = 'not-sent', reason = ${reason}::text, ended_at = clock_timestamp()
      FROM moved WHERE d.call_id = moved.id AND d.attempt = ${held.attempt}::integer
    )
    INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url)
    SELECT id, attempts, claim, target, coalesce(worker, agent_name), worker_url FROM moved
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

const isRoomTaken = (error: DatabaseError) =>
  error._tag === "QueryRefused" && error.constraint === "calls_one_leg_without_rule"

export class Ledger extends Context.Service<
  Ledger,
  {
    /**
     * Claims the call for the taker, or for nobody (`undefined`: it will be `Waiting`), or tells what is
     * known. `idempotentUrls` are the workers that may be sent the same request again.
     */
    readonly claim: (input: Omit<ClaimInput, "rowId" | "claimId">) => Effect.Effect<Claimed, DatabaseError>
    /**
     * Ends the attempt of a fresh hand-over as not sent and names the next taker; `undefined` where the lease
     * was lost, and nothing may be sent any more.
     */
    readonly moveOn: (
      fresh: Fresh,
      reason: string,
      taker: Taker,
    ) => Effect.Effect<Fresh | undefined, DatabaseError>
    /** Stores how an attempt ended, however late; returns the call's state after it. */
    readonly settle: (lease: Lease, outcome: Outcome) => Effect.Effect<CallState | undefined, DatabaseError>
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
        settle: (held, outcome) =>
          Effect.map(database.run(settleStatement(held, outcome)), (rows) => rows[0]?.state),
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
