// Whether a contender did the work: a number is worth nothing where a call is missing, came twice or was not stored.

import type { LoadResult } from "./load.ts"
import type { StagedDatabase } from "./stage.ts"
import type { WorkerCount } from "./worker.ts"

// Whole: in the right state, with the worker's answer and all that the call log says of a call that rings.
const rowsSql = (sinceMs: number) => `
  SELECT count(*)::int AS rows,
    count(*) FILTER (
      WHERE c.state = 'accepted' AND c.outcome = 'accepted' AND c.attempts = 1 AND c.claim IS NOT NULL
      AND c.answer_status = 200 AND convert_from(c.answer_body, 'UTF8') LIKE '%held_us%'
      AND c.settled_at IS NOT NULL AND c.worker_url <> '' AND c.target = 'fleet' AND c.status = 'ringing'
      AND c.direction = 'inbound' AND c.caller_e164 <> '' AND c.dialed_e164 <> '' AND c.trunk_id <> ''
      AND c.rule_id <> '' AND c.participant_identity <> '' AND c.room_sid <> '' AND c.caller_joined_ms > 0
      AND c.did_id IS NOT NULL AND c.tenant_id IS NOT NULL AND c.metadata <> '' AND c.explanation IS NOT NULL
    )::int AS whole,
    count(d.call_id) FILTER (WHERE d.outcome = 'accepted' AND d.status = 200 AND d.ended_at IS NOT NULL)::int
      AS attempts,
    count(n.alias)::int AS names
  FROM calls c
  LEFT JOIN dispatch_attempts d ON d.call_id = c.id
  LEFT JOIN call_aliases n ON n.alias = c.sip_call_id_full AND n.call_key = c.call_key
  WHERE c.started_at_ms >= ${sinceMs}
`

const differs = (what: string, is: unknown, due: number) =>
  is === due ? [] : [`${what}: ${String(is)} instead of ${due}`]

/** Everything that is not as it must be; nothing where the work was done. */
export const faultsOf = async (
  results: ReadonlyArray<LoadResult>,
  seen: WorkerCount,
  database: StagedDatabase,
  sinceMs: number,
): Promise<ReadonlyArray<string>> => {
  // One more: that which the contender was started with.
  const calls = results.reduce((sum, result) => sum + result.calls, 1)
  const [rows = {}] = await database.look((query) => query(rowsSql(sinceMs)))
  return [
    ...results.flatMap(({ wrong }) => Object.entries(wrong).map(([what, times]) => `${times} × ${what}`)),
    ...differs("calls that the worker saw", seen.calls, calls),
    ...differs("calls that it saw again", seen.repeated, 0),
    ...differs("requests that were not whole", seen.wrong, 0),
    ...differs("rows", rows["rows"], calls),
    ...differs("whole rows", rows["whole"], calls),
    ...differs("attempts", rows["attempts"], calls),
    ...differs("names", rows["names"], calls),
  ]
}
