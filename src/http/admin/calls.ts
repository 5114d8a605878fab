// Calls: what happened to each, and why.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import {
  type AnswererRow,
  type AttemptRow,
  answerersStatement,
  attemptsStatement,
  type CallDetailsRow,
  callStatement,
  isRowId,
} from "../../calls/call-details.ts"
import { type CallListRow, type CallSummaryRow, callsStatement } from "../../calls/call-list.ts"
import { leadStatement } from "../../calls/leads.ts"
import { whyOfStored } from "../../dispatch/explanation.ts"
import { sessionStatement } from "../../sessions/session-list.ts"
import { AdminApi } from "./api/api.ts"
import { defaultLimit } from "./api/common.ts"
import { BadRequest } from "./api/problems.ts"
import { shownLead } from "./leads.ts"
import { shownSession } from "./sessions.ts"
import { makeReading, msOf, pageFor, timeOf } from "./shaping.ts"
import { makeStore } from "./store.ts"

const summaryOf = (row: CallSummaryRow) => {
  const { answered_at_ms, call_key, ended_at_ms, started_at_ms, ...rest } = row
  return {
    ...rest,
    call_id: call_key,
    started_at: timeOf(started_at_ms),
    answered_at: timeOf(answered_at_ms),
    ended_at: timeOf(ended_at_ms),
    ring_ms: msOf(row.ring_ms),
    duration_ms: msOf(row.duration_ms),
  }
}

const attemptOf = (row: AttemptRow) => ({
  ...row,
  took_ms: row.ended_at === null ? null : row.ended_at.getTime() - row.started_at.getTime(),
})

const answererOf = ({ identity, joined_ms, kind, left_at_ms }: AnswererRow) => ({
  identity,
  kind,
  joined_at: new Date(Number(joined_ms)),
  left_at: timeOf(left_at_ms),
})

/** JSON where it is some, else the text itself. */
const readable = (text: string) => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

const answerOf = (row: CallDetailsRow) =>
  row.answer_status === null
    ? null
    : {
        status: row.answer_status,
        content_type: row.answer_type || null,
        body: readable(new TextDecoder().decode(row.answer_body ?? new Uint8Array())),
      }

const detailsOf = (row: CallDetailsRow) => ({
  ...summaryOf(row),
  worker_url: row.worker_url,
  owner: row.owner,
  rule_id: row.rule_id,
  sip_call_id: row.sip_call_id,
  sip_call_id_full: row.sip_call_id_full,
  asked_id: row.asked_id,
  participant_identity: row.participant_identity,
  answer: answerOf(row),
  metadata: row.metadata === null ? null : readable(row.metadata),
  // What stands in the column is JSON.
  explanation: row.explanation as null,
  created_at: row.created_at,
  claimed_at: row.claimed_at,
  settled_at: row.settled_at,
})

type Hit = CallListRow & { readonly id: string }
const isHit = (row: CallListRow): row is Hit => row.id !== null

const cursorAt = (ms: string | number | null, id: string) => [String(ms ?? 0), id] as const

/** A search that has looked through its share of calls goes on where it stopped, full page or not. */
const listOf = (rows: ReadonlyArray<CallListRow>, limit: number) => {
  const hits = rows.filter(isHit)
  const last = hits[limit - 1]
  const resume = rows.find((row) => row.resume_id !== null)
  const next =
    hits.length > limit && last !== undefined
      ? cursorAt(last.started_at_ms, last.id)
      : resume && cursorAt(resume.resume_ms, resume.resume_id ?? "")
  return {
    items: hits.slice(0, limit).map(({ resume_id: _, resume_ms: __, ...row }) => summaryOf(row)),
    next_cursor: next ?? null,
  }
}

export const callsHandlers = HttpApiBuilder.group(
  AdminApi,
  "calls",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    const numbers = yield* makeReading
    const didOf = (did: string | undefined) => {
      if (did === undefined) return Effect.succeed(undefined)
      return isRowId(did)
        ? Effect.succeed({ id: did })
        : Effect.map(numbers.one("did", did), ({ e164 }) => ({ number: e164 }))
    }
    return handlers.handleAll({
      list: Effect.fnUntraced(function* ({ query }) {
        const number = yield* numbers.optional("number", query.number)
        const did = yield* didOf(query.did)
        if (query.from !== undefined && query.to !== undefined && query.from > query.to)
          return yield* BadRequest.at("to", "is before from")
        const { direction, outcome, status, unanswered, worker } = query
        const rows = yield* store.many(
          callsStatement(pageFor(query), {
            ...{ direction, outcome, status, unanswered, worker, did },
            fromMs: query.from?.getTime(),
            toMs: query.to?.getTime(),
            tenantId: query.tenant_id,
            campaignId: query.campaign_id,
            number: number?.e164,
          }),
        )
        return listOf(rows, query.limit ?? defaultLimit)
      }),
      get: Effect.fnUntraced(function* ({ params }) {
        const row = yield* store.one("call", callStatement(params.id))
        const parts = yield* Effect.all(
          {
            attempts: store.many(attemptsStatement(row.id)),
            answerers: store.many(answerersStatement(row.room_key)),
            session: store.many(sessionStatement(row.room_key)),
            lead: row.lead_id === null ? Effect.succeed([]) : store.many(leadStatement(row.lead_id)),
          },
          { concurrency: "unbounded" },
        )
        const attempts = parts.attempts.map(attemptOf)
        return {
          ...detailsOf(row),
          attempts,
          why: whyOfStored(row.explanation, attempts),
          answerers: parts.answerers.map(answererOf),
          session: parts.session[0] === undefined ? null : shownSession(parts.session[0]),
          lead: parts.lead[0] === undefined ? null : shownLead(parts.lead[0]),
        }
      }),
    })
  }),
)
