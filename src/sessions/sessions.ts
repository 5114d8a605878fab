// Sessions: one per room, ready until it has started, live until it has finished.

import { Context, Effect, Layer } from "effect"
import { sql } from "kysely"
import { Bounded } from "../bounded.ts"
import { roomKey } from "../calls/call.ts"
import { changeColumns, type LogChange, tellChanges } from "../calls/changes.ts"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { query, storable } from "../database/schema.ts"
import { statement } from "../database/statement.ts"
import { showLiveSessions } from "../metrics.ts"
import type { WebhookEvent } from "../webhook/event.ts"

export type SessionStatus = "ready" | "live" | "stopped"

/** What an event has made of its room's session. */
export interface SessionMoved {
  readonly from: SessionStatus
  readonly to: SessionStatus
}

interface MovedRow extends LogChange {
  readonly was: SessionStatus | null
  readonly now: SessionStatus | null
  /** Null where no call of the room has changed. */
  readonly changed: boolean | null
}

type Moving = [event: WebhookEvent, what: "seen" | "started" | "finished"]

// A room that starts again has been started before: the first time and the last one are kept. The first end counts.
const movedStatement = statement<Moving, MovedRow>((of) => {
  const key = sql`${of(roomKey)}::text`
  const started = sql`${of(({ createdAtMs }, what) => (what === "started" ? createdAtMs : null))}::bigint`
  const ended = sql`${of(({ createdAtMs }, what) => (what === "finished" ? createdAtMs : null))}::bigint`
  return sql`
    WITH before AS (SELECT status FROM sessions WHERE room_key = ${key}), moved AS (
      INSERT INTO sessions AS s (room_key, room_sid, room_name, started_at_ms, restarted_at_ms, ended_at_ms)
      VALUES (${key}, ${of(({ room }) => storable(room.sid))}::text, ${of(({ room }) => storable(room.name))}::text,
        ${started}, ${started}, ${ended})
      ON CONFLICT (room_key) DO UPDATE SET
        started_at_ms = least(s.started_at_ms, excluded.started_at_ms),
        restarted_at_ms = greatest(s.restarted_at_ms, excluded.restarted_at_ms),
        ended_at_ms = least(s.ended_at_ms, excluded.ended_at_ms)
      WHERE least(s.started_at_ms, excluded.started_at_ms) IS DISTINCT FROM s.started_at_ms
        OR greatest(s.restarted_at_ms, excluded.restarted_at_ms) IS DISTINCT FROM s.restarted_at_ms
        OR least(s.ended_at_ms, excluded.ended_at_ms) IS DISTINCT FROM s.ended_at_ms
      RETURNING s.room_key, s.status
    )
    SELECT before.status AS was, coalesce(moved.status, before.status) AS now, d.changed, ${changeColumns("(d.was)", "(d.now)")}
    FROM (SELECT 1) one LEFT JOIN before ON true LEFT JOIN moved ON true
    LEFT JOIN LATERAL (
      SELECT true AS changed, r.was, r.now FROM derive_room(moved.room_key) r
      WHERE ${of((_, what) => what === "finished")}::boolean
    ) d ON true
  `
})

// Rooms whose row is known to exist: participants of a large meeting ask the database once.
const mostRemembered = 10_000

const countEvery = "10 seconds"

export class Sessions extends Context.Service<
  Sessions,
  {
    /** The room has started, or started again. */
    readonly started: (event: WebhookEvent) => Effect.Effect<SessionMoved, DatabaseError>
    /** The room has finished, and with it whatever call is still in it. */
    readonly finished: (event: WebhookEvent) => Effect.Effect<SessionMoved, DatabaseError>
    /** Something happened in the room: it has a session, be its start known or not. */
    readonly seen: (event: WebhookEvent) => Effect.Effect<void, DatabaseError>
  }
>()("switchhook/sessions/Sessions") {
  static readonly layer = Layer.effect(
    Sessions,
    Effect.gen(function* () {
      const database = yield* Database
      const remembered = new Bounded<true>(mostRemembered)
      const move = Effect.fnUntraced(function* (event: WebhookEvent, what: "seen" | "started" | "finished") {
        const rows = yield* database.run(movedStatement(event, what))
        yield* tellChanges(rows.filter((row) => row.changed === true))
        remembered.put(roomKey(event), true)
        const from = rows[0]?.was ?? "ready"
        const to = rows[0]?.now ?? from
        if (from !== to) yield* Effect.logInfo(`Session ${to}`, { room_sid: event.room.sid })
        return { from, to }
      })
      // Counted beside the traffic: whoever reads the metrics must not reach the database.
      const count = Effect.flatMap(
        database.run(
          sql<{ live: string }>`SELECT count(*) AS live FROM sessions WHERE status = 'live'`.compile(query),
        ),
        (rows) => Effect.sync(() => showLiveSessions(Number(rows[0]?.live ?? 0))),
      )
      yield* database.migrated.pipe(
        Effect.andThen(Effect.forever(Effect.andThen(Effect.ignore(count), Effect.sleep(countEvery)))),
        Effect.forkScoped,
      )

      return Sessions.of({
        started: (event) => move(event, "started"),
        finished: (event) => move(event, "finished"),
        seen: (event) =>
          Effect.suspend(() =>
            remembered.has(roomKey(event)) ? Effect.void : Effect.asVoid(move(event, "seen")),
          ),
      })
    }),
  )
}
