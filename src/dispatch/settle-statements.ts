// The statements that keep, move on and end a hand-over.

import { type CompiledQuery, type RawBuilder, sql } from "kysely"
import { type AttemptOutcome, type CallState, storable } from "../database/schema.ts"
import { type Batch, batch, statement } from "../database/statement.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import { type Lease, leaseUntil } from "./lease.ts"
import { type Outcome, outcomeNames } from "./outcome.ts"
import { agentOf, type Taker, urlOf, workerOf } from "./taker.ts"

/** Extends the lease of a claim that still holds it. */
export const renewStatement = statement<[rowId: string, claimId: string], { id: string }>(
  (of) => sql`
    UPDATE calls SET lease_until = ${leaseUntil}
    WHERE id = ${of((rowId) => rowId)}::uuid AND claim = ${of((_, claimId) => claimId)}::uuid AND state = 'handing'
      AND lease_until > clock_timestamp()
    RETURNING id
  `,
)

// The row names the next taker before its first byte leaves; never once anything of the call was sent.
export const moveStatement = statement<[held: Lease, reason: string, taker: Taker], { attempt: number }>(
  (of) => {
    const attempt = sql`${of((held) => held.attempt)}::integer`
    const taker = <A>(value: (taker: Taker) => A) => of((_, __, to) => value(to))
    return sql`
    WITH moved AS (
      UPDATE calls SET unsent = unsent + 1, attempts = attempts + 1, lease_until = ${leaseUntil},
        target = ${taker(({ kind }) => kind)}::text, worker = ${taker(workerOf)}::text,
        worker_url = ${taker(urlOf)}::text, agent_name = ${taker(agentOf)}::text
      WHERE id = ${of(({ callRowId }) => callRowId)}::uuid AND claim = ${of(({ claimId }) => claimId)}::uuid
        AND state = 'handing' AND lease_until > clock_timestamp() AND attempts = ${attempt} AND attempts = unsent + 1
      RETURNING id, attempts, claim, target, worker, agent_name, worker_url
    ), gone AS (
      UPDATE dispatch_attempts d SET outcome = 'not-sent', reason = ${of((_, why) => why)}::text,
        ended_at = clock_timestamp()
      FROM moved WHERE d.call_id = moved.id AND d.attempt = ${attempt}
    )
    INSERT INTO dispatch_attempts (call_id, attempt, claim, target, worker, worker_url)
    SELECT id, attempts, claim, target, coalesce(worker, agent_name), worker_url FROM moved
    RETURNING attempt
  `
  },
)

/** One attempt of a call, by its claim. */
export type AttemptRef = Pick<Lease, "callRowId" | "claimId" | "attempt">

const answerOf = (outcome: Outcome): WorkerAnswer | undefined =>
  "answer" in outcome ? outcome.answer : undefined
const reasonOf = (outcome: Outcome) => ("reason" in outcome ? outcome.reason : undefined) ?? null

/** How an attempt has ended, and what the stages took (ms). */
export interface Settling {
  readonly held: AttemptRef
  readonly outcome: Outcome
  readonly tookMs: Record<string, number>
}

interface SettledRow {
  readonly id: string
  readonly state: CallState
}

// The state follows from what all attempts of the call have ended in, whatever the order in which that
// becomes known: accepted, else whoever still runs decides, else rejected, else uncertain, else waiting.
const settleAs = (name: AttemptOutcome): Batch<Settling, SettledRow> =>
  batch(
    (of) => {
      const is = (other: AttemptOutcome) => sql<boolean>`${sql.lit(name === other)}`
      const answer = <A>(value: (answer: WorkerAnswer | undefined) => A) =>
        of(({ outcome }) => value(answerOf(outcome)))
      const attempt = sql`${of(({ held }) => held.attempt)}::integer`
      const status = sql`${answer((given) => given?.status ?? null)}::integer`
      const unsent = sql<number>`c.unsent + ${sql.lit(name === "not-sent" ? 1 : 0)}`
      const tookMs = sql`${of((settling) => JSON.stringify(settling.tookMs))}::jsonb`
      // The first accepted answer stays, else the first rejected one.
      const stores =
        name === "accepted"
          ? sql<boolean>`c.outcome IS DISTINCT FROM 'accepted'`
          : sql<boolean>`${is("rejected")} AND c.answer_status IS NULL`
      const ifUnsent = (part: RawBuilder<unknown>) => (name === "not-sent" ? part : sql``)
      return sql`
      WITH ended AS (
        UPDATE dispatch_attempts d SET outcome = ${sql.lit(name)}, status = ${status},
          reason = ${of(({ outcome }) => reasonOf(outcome))}::text, ended_at = clock_timestamp()
        FROM given
        -- Of a small table PostgreSQL believes that hardly any outcome IS NULL, and would read all of it from then on.
        WHERE d.call_id = ${of(({ held }) => held.callRowId)}::uuid AND d.attempt = ${attempt} AND num_nulls(d.outcome) > 0
        RETURNING d.call_id, d.rescue, given.*
      ) ${ifUnsent(sql`, taker AS (
        -- A rescue that sent nothing leaves the call with whoever may have had it before.
        SELECT DISTINCT ON (d.call_id) d.call_id, d.target, d.worker, d.worker_url
        FROM ended AS given JOIN dispatch_attempts d ON d.call_id = given.call_id
        WHERE given.rescue AND d.attempt < ${attempt} AND d.outcome IS DISTINCT FROM 'not-sent'
        ORDER BY d.call_id, d.attempt DESC
      )`)}
      UPDATE calls c SET
        unsent = ${unsent},
        state = CASE
          WHEN ${is("accepted")} OR c.state = 'accepted' THEN 'accepted'
          WHEN c.state = 'handing' AND c.claim <> ${of(({ held }) => held.claimId)}::uuid THEN 'handing'
          WHEN c.outcome = 'accepted' THEN 'accepted'
          WHEN ${is("rejected")} OR c.answer_status IS NOT NULL THEN 'rejected'
          WHEN ${unsent} = c.attempts THEN 'waiting'
          ELSE 'uncertain' END,
        outcome = CASE WHEN c.outcome = 'accepted' THEN c.outcome ELSE ${sql.lit(name)} END,
        answer_status = CASE WHEN ${stores} THEN ${status} ELSE c.answer_status END,
        answer_type = CASE WHEN ${stores} THEN ${answer((given) => storable(given?.contentType ?? ""))}::text ELSE c.answer_type END,
        answer_body = CASE WHEN ${stores} THEN ${answer((given) => given?.body ?? null)}::bytea ELSE c.answer_body END,
        explanation = CASE WHEN c.explanation->'took_ms' IS NULL THEN c.explanation ELSE
          jsonb_set(c.explanation, '{took_ms}', (c.explanation->'took_ms') || ${tookMs}) END,
        ${ifUnsent(sql`target = coalesce(t.target, c.target),
        worker = CASE WHEN t.target IS NULL THEN c.worker WHEN t.target = 'fleet' THEN t.worker END,
        worker_url = CASE WHEN t.target IS NULL THEN c.worker_url ELSE t.worker_url END,
        agent_name = CASE WHEN t.target IS NULL THEN c.agent_name WHEN t.target = 'agent' THEN t.worker END,
        rescues = c.rescues - given.rescue::integer,`)}
        settled_at = clock_timestamp()
      FROM ended AS given ${ifUnsent(sql`LEFT JOIN taker t ON t.call_id = given.call_id`)} WHERE c.id = given.call_id
      RETURNING c.id, c.state
    `
    },
    {
      nameOf: ({ held }) => held.callRowId,
      nameIn: ({ id }) => id,
      orderOf: ({ held }) => held.callRowId,
    },
  )

/** Stores how attempts have ended, and what the stages took, once: by their outcomes. */
export const settlings: { readonly [outcome in AttemptOutcome]: Batch<Settling, SettledRow> } = {
  "not-sent": settleAs("not-sent"),
  accepted: settleAs("accepted"),
  rejected: settleAs("rejected"),
  ambiguous: settleAs("ambiguous"),
}

/** The same for one attempt. */
export const settleStatement = (settling: Settling): CompiledQuery<SettledRow> =>
  settlings[outcomeNames[settling.outcome._tag]].statement([settling])
