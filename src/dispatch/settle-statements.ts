// The statements that keep, move on and end a hand-over.

import { sql } from "kysely"
import { type CallState, query, storable } from "../database/schema.ts"
import type { Lease } from "./lease.ts"
import { leaseUntil } from "./lease.ts"
import { type Outcome, outcomeNames } from "./outcome.ts"
import { agentOf, type Taker, urlOf, workerOf } from "./taker.ts"

/** Extends the lease of a claim that still holds it. */
export const renewStatement = (rowId: string, claimId: string) =>
  sql<{ id: string }>`
    UPDATE calls SET lease_until = ${leaseUntil}
    WHERE id = ${rowId}::uuid AND claim = ${claimId}::uuid AND state = 'handing' AND lease_until > clock_timestamp()
    RETURNING id
  `.compile(query)

// The row names the next taker before its first byte leaves; never once anything of the call was sent.
export const moveStatement = (held: Lease, reason: string, taker: Taker) =>
  sql<{ attempt: number }>`
    WITH moved AS (
      UPDATE calls SET unsent = unsent + 1, attempts = attempts + 1, lease_until = ${leaseUntil}, target = ${taker.kind}::text,
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

/** One attempt of a call, by its claim. */
export type AttemptRef = Pick<Lease, "callRowId" | "claimId" | "attempt">

// The state follows from what all attempts of the call have ended in, whatever the order in which that
// becomes known: accepted, else whoever still runs decides, else rejected, else uncertain, else waiting.
export const settleStatement = (held: AttemptRef, outcome: Outcome, tookMs: Record<string, number>) => {
  const name = outcomeNames[outcome._tag]
  const answer = "answer" in outcome ? outcome.answer : undefined
  const reason = ("reason" in outcome ? outcome.reason : undefined) ?? null
  const unsent = sql<number>`c.unsent + ${name === "not-sent" ? 1 : 0}::integer`
  // The first accepted answer stays, else the first rejected one.
  const stores =
    name === "accepted"
      ? sql<boolean>`c.outcome IS DISTINCT FROM 'accepted'`
      : sql<boolean>`${name === "rejected"}::boolean AND c.answer_status IS NULL`
  return sql<{ state: CallState }>`
    WITH ended AS (
      UPDATE dispatch_attempts SET outcome = ${name}::text, status = ${answer?.status ?? null}::integer,
        reason = ${reason}::text, ended_at = clock_timestamp()
      WHERE call_id = ${held.callRowId}::uuid AND attempt = ${held.attempt}::integer AND outcome IS NULL
      RETURNING call_id, rescue AND ${name === "not-sent"}::boolean AS undone
    ), taker AS (
      -- A rescue that sent nothing leaves the call with whoever may have had it before.
      SELECT d.target, d.worker, d.worker_url FROM dispatch_attempts d JOIN ended e ON e.call_id = d.call_id AND e.undone
      WHERE d.attempt < ${held.attempt}::integer AND d.outcome IS DISTINCT FROM 'not-sent'
      ORDER BY d.attempt DESC LIMIT 1
    )
    UPDATE calls c SET
      unsent = ${unsent},
      state = CASE
        WHEN ${name === "accepted"}::boolean OR c.state = 'accepted' THEN 'accepted'
        WHEN c.state = 'handing' AND c.claim <> ${held.claimId}::uuid THEN 'handing'
        WHEN c.outcome = 'accepted' THEN 'accepted'
        WHEN ${name === "rejected"}::boolean OR c.answer_status IS NOT NULL THEN 'rejected'
        WHEN ${unsent} = c.attempts THEN 'waiting'
        ELSE 'uncertain' END,
      outcome = CASE WHEN c.outcome = 'accepted' THEN c.outcome ELSE ${name}::text END,
      answer_status = CASE WHEN ${stores} THEN ${answer?.status ?? null}::integer ELSE c.answer_status END,
      answer_type = CASE WHEN ${stores} THEN ${storable(answer?.contentType ?? "")}::text ELSE c.answer_type END,
      answer_body = CASE WHEN ${stores} THEN ${answer?.body ?? null}::bytea ELSE c.answer_body END,
      explanation = CASE WHEN c.explanation->'took_ms' IS NULL THEN c.explanation ELSE
        jsonb_set(c.explanation, '{took_ms}', (c.explanation->'took_ms') || ${JSON.stringify(tookMs)}::jsonb) END,
      target = coalesce(t.target, c.target),
      worker = CASE WHEN t.target IS NULL THEN c.worker WHEN t.target = 'fleet' THEN t.worker END,
      worker_url = CASE WHEN t.target IS NULL THEN c.worker_url ELSE t.worker_url END,
      agent_name = CASE WHEN t.target IS NULL THEN c.agent_name WHEN t.target = 'agent' THEN t.worker END,
      rescues = c.rescues - ended.undone::integer,
      settled_at = clock_timestamp()
    FROM ended LEFT JOIN taker t ON true WHERE c.id = ended.call_id
    RETURNING c.state
  `.compile(query)
}
