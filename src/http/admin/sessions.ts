// Sessions, to look at.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { indexed } from "../../calls/call.ts"
import { type SessionRow, sessionStatement, sessionsStatement } from "../../sessions/session-list.ts"
import { AdminApi } from "./api/api.ts"
import { pageFor, pageFrom, timeOf } from "./shaping.ts"
import { makeStore } from "./store.ts"

export const shownSession = (row: SessionRow) => ({
  id: row.room_key,
  room_sid: row.room_sid,
  room_name: row.room_name,
  status: row.status,
  started_at: timeOf(row.started_at_ms),
  restarted_at: row.restarted_at_ms === row.started_at_ms ? null : timeOf(row.restarted_at_ms),
  ended_at: timeOf(row.ended_at_ms),
  created_at: row.created_at,
})

export const sessionsHandlers = HttpApiBuilder.group(
  AdminApi,
  "sessions",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    return handlers.handleAll({
      list: ({ query }) =>
        Effect.map(store.many(sessionsStatement(pageFor(query), query)), (rows) =>
          pageFrom(query, rows, (row) => [row.created_micros, row.room_key] as const, shownSession),
        ),
      get: ({ params }) =>
        Effect.map(store.one("session", sessionStatement(indexed(params.id))), shownSession),
    })
  }),
)
