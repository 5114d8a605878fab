// What a statement has changed in the call log, and what the operator is told of it.

import { Effect } from "effect"
import { type RawBuilder, sql } from "kysely"
import { countAnswer, countEndedCall, countExtraAnswerers, countNewLead } from "../metrics.ts"

/** What the log says of a call. */
export interface Logged {
  readonly call_key: string
  readonly sip_call_id: string | null
  readonly target: string | null
  readonly status: string | null
  readonly direction: string | null
  readonly answered_at_ms: string | number | null
  readonly answerers: number
  readonly ended_once: boolean
  readonly ring_ms: string | number | null
  readonly duration_ms: string | number | null
  readonly hung_up_by: string | null
  readonly end_reason: string | null
  readonly lead: boolean
  readonly lead_created: boolean
}

/** The same after a statement, and what it said before; `was_…` is null where there was no row. */
export interface LogChange extends Logged {
  readonly was_answered_at_ms: string | number | null
  readonly was_answerers: number | null
  readonly was_ended_once: boolean | null
  readonly was_lead: boolean
  readonly was_direction: string | null
}

/** A row that was not there before. */
export const madeNow = <Row extends Logged>(row: Row): Row & LogChange => ({
  ...row,
  was_answered_at_ms: null,
  was_answerers: null,
  was_ended_once: null,
  was_lead: false,
  was_direction: null,
})

const logged = [
  ...[
    "call_key",
    "sip_call_id",
    "target",
    "status",
    "direction",
    "answered_at_ms",
    "answerers",
    "ended_once",
  ],
  ...["ring_ms", "duration_ms", "hung_up_by", "end_reason", "lead_created"],
]

/**
 * The columns of the row that those below read, and those beside them: a part of a statement that hands on all
 * columns costs more than what it does.
 */
export const loggedOf = (row: string, beside: ReadonlyArray<string> = []): RawBuilder<unknown> =>
  sql.raw([...logged, "lead_id", ...beside].map((column) => `${row}.${column}`).join(", "))

/** The columns of a `Logged`. */
export const loggedColumns = (row: string): RawBuilder<unknown> =>
  sql.raw([...logged.map((column) => `${row}.${column}`), `${row}.lead_id IS NOT NULL AS lead`].join(", "))

/** The columns of a `LogChange`, of the row `after` and the row `before` it. */
export const changeColumns = (before: string, after: string): RawBuilder<unknown> =>
  sql`${sql.raw(
    [
      `${before}.answered_at_ms AS was_answered_at_ms, ${before}.answerers AS was_answerers`,
      `${before}.ended_once AS was_ended_once, ${before}.lead_id IS NOT NULL AS was_lead`,
      `${before}.direction AS was_direction`,
    ].join(", "),
  )}, ${loggedColumns(after)}`

const seconds = (ms: string | number | null) => (ms === null ? undefined : Number(ms) / 1000)

const tellChange = Effect.fnUntraced(function* (change: LogChange) {
  if (change.direction !== "inbound") return
  if (change.was_direction === null) {
    yield* Effect.logInfo("Call log created", { status: change.status })
  }
  if (change.lead_created && !change.was_lead) {
    yield* Effect.logInfo("Created new lead")
    countNewLead()
  }
  const target = change.target ?? "fleet"
  if (change.was_answered_at_ms === null && change.answered_at_ms !== null) {
    const rang = seconds(change.ring_ms)
    yield* Effect.logInfo("Call answered", { rang_s: rang })
    if (rang !== undefined) countAnswer(target, rang)
  }
  const extra = Math.max(change.answerers - 1, 0) - Math.max((change.was_answerers ?? 0) - 1, 0)
  if (extra > 0) {
    yield* Effect.logWarning("More than one answerer in a call", { answerers: change.answerers })
    countExtraAnswerers(extra)
  }
  if (change.ended_once && change.was_ended_once !== true) {
    const { hung_up_by, status } = change
    yield* Effect.logInfo("Call ended", {
      status,
      hung_up_by,
      reason: change.end_reason,
      duration_s: seconds(change.duration_ms),
    })
    countEndedCall(status ?? "unknown", hung_up_by ?? "unknown")
  }
})

/** Logs and counts what has changed; each call counts as ended once, however often it is reopened. */
export const tellChanges = (changes: ReadonlyArray<LogChange>): Effect.Effect<void> =>
  Effect.forEach(
    changes,
    (change) => Effect.annotateLogs(tellChange(change), "call_id", change.sip_call_id || change.call_key),
    { discard: true },
  )
