// One call, with everything that is known of it.

import { sql } from "kysely"
import { query } from "../database/schema.ts"
import { indexed } from "./call.ts"
import { type CallSummaryRow, summaryColumns } from "./call-list.ts"

type Ms = string | number | null

export interface CallDetailsRow extends CallSummaryRow {
  readonly room_key: string
  readonly worker_url: string | null
  readonly owner: string | null
  readonly rule_id: string | null
  readonly sip_call_id: string | null
  readonly sip_call_id_full: string | null
  readonly asked_id: string | null
  readonly participant_identity: string | null
  readonly answer_status: number | null
  readonly answer_type: string | null
  readonly answer_body: Uint8Array | null
  readonly metadata: string | null
  readonly explanation: unknown
  readonly created_at: Date
  readonly claimed_at: Date | null
  readonly settled_at: Date | null
}

export interface AttemptRow {
  readonly attempt: number
  readonly target: string
  readonly worker: string
  readonly worker_url: string | null
  readonly outcome: string | null
  readonly status: number | null
  readonly reason: string | null
  readonly started_at: Date
  readonly ended_at: Date | null
}

export interface AnswererRow {
  readonly identity: string
  readonly kind: string
  readonly joined_ms: string | number
  readonly left_at_ms: Ms
}

const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** Whether a text is an id of ours, rather than a name that somebody else has given. */
export const isRowId = (text: string): boolean => uuid.test(text)

/** By the row's id, or by any name that the call goes by. */
export const callStatement = (id: string) => {
  const name = indexed(id)
  const own = sql`${isRowId(id) ? id : null}::uuid`
  return sql<CallDetailsRow>`
    SELECT ${summaryColumns}, c.room_key, c.worker_url, c.owner, c.rule_id, c.sip_call_id, c.sip_call_id_full,
      c.asked_id, c.participant_identity, c.answer_status, c.answer_type, c.answer_body, c.metadata, c.explanation,
      c.created_at, c.claimed_at, c.settled_at
    FROM calls c
    WHERE c.id = ${own} OR c.call_key = ${name}::text
      OR c.call_key = (SELECT a.call_key FROM call_aliases a WHERE a.alias = ${name}::text)
    ORDER BY c.id IS NOT DISTINCT FROM ${own} DESC LIMIT 1
  `.compile(query)
}

export const attemptsStatement = (callId: string) =>
  sql<AttemptRow>`
    SELECT attempt, target, worker, worker_url, outcome, status, reason, started_at, ended_at
    FROM dispatch_attempts WHERE call_id = ${callId}::uuid ORDER BY attempt
  `.compile(query)

/** Whoever could answer a caller in that room. */
export const answerersStatement = (roomKey: string) =>
  sql<AnswererRow>`
    SELECT identity, kind, joined_ms, left_at_ms FROM answerers
    WHERE room_key = ${roomKey}::text AND room_key <> '' ORDER BY joined_ms, participant
  `.compile(query)
