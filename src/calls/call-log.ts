// The call log: the facts that events bring about calls, merged so that order and repetition change nothing.

import { Context, Effect, Layer } from "effect"
import { sql } from "kysely"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { storable } from "../database/schema.ts"
import { statement } from "../database/statement.ts"
import type { EventParticipant } from "../webhook/event.ts"
import { type Call, callKey, indexed, type LegEvent, roomKey } from "./call.ts"
import {
  anyMoves,
  isRoomTaken,
  joinedOf,
  keyOfLeg,
  legColumns,
  mergesOf,
  namesOf,
  roomOf,
  ruleOf,
  valuesOf,
} from "./call-row.ts"
import { changeColumns, type LogChange, loggedOf, tellChanges } from "./changes.ts"
import { newRowId } from "./row-id.ts"

/** How the caller's leg has ended. */
export interface Leave {
  /** `participant_connection_aborted`: it never really came. */
  readonly aborted: boolean
}

const before = sql`before AS (SELECT ${loggedOf("b")} FROM calls b, who WHERE b.call_key = who.key)`

const reported = sql`
  SELECT ${changeColumns("before", "moved")} FROM moved LEFT JOIN before ON true`

const joinStatement = statement<[call: Call, rowId: string], LogChange>((of) => {
  const columns = legColumns(of, () => "inbound")
  return sql`
    WITH who AS MATERIALIZED (SELECT ${keyOfLeg(of)} AS key), ${before}, moved AS (
      INSERT INTO calls AS c (id, call_key, state, target, ${namesOf(columns)})
      SELECT ${of((_, rowId) => rowId)}::uuid, who.key, 'none', ${of(({ decision }) => decision.target)}::text,
        ${valuesOf(columns)} FROM who
      WHERE ${of((call) => ruleOf(call) !== "")}::boolean
        OR NOT EXISTS (SELECT 1 FROM calls o WHERE o.room_key = ${of(roomOf)}::text AND o.call_key <> who.key)
        OR EXISTS (SELECT 1 FROM calls o WHERE o.call_key = who.key AND o.direction = 'inbound')
      ON CONFLICT (call_key) DO UPDATE SET ${mergesOf(columns)}, target = coalesce(c.target, excluded.target)
      WHERE c.direction IS DISTINCT FROM 'outbound' AND ${anyMoves(columns)}
      RETURNING ${loggedOf("c")}
    )
    ${reported}
  `
})

// Two leaves of one join cannot come, but were they to, the same one would win whatever their order.
const newerLeave = sql<boolean>`(
  c.caller_left_ms IS NULL
  OR (excluded.caller_left_ms, excluded.left_aborted, -excluded.left_at_ms, excluded.left_status, excluded.left_reason)
    > (c.caller_left_ms, c.left_aborted, -c.left_at_ms, c.left_status, c.left_reason))`

// Without a dispatch rule the leg may be one that we called.
const directionOf = (call: Call) => (ruleOf(call) === "" ? undefined : "inbound")

const leaveStatement = statement<[call: Call, rowId: string, leave: Leave], LogChange>((of) => {
  const columns = legColumns(of, directionOf)
  const won = (name: string) =>
    sql`${sql.raw(name)} = CASE WHEN ${newerLeave} THEN ${sql.raw(`excluded.${name}`)} ELSE ${sql.raw(`c.${name}`)} END`
  const leave = ["caller_left_ms", "left_at_ms", "left_aborted", "left_status", "left_reason"]
  return sql`
    WITH who AS MATERIALIZED (SELECT ${keyOfLeg(of)} AS key), ${before}, moved AS (
      INSERT INTO calls AS c (id, call_key, state, target, ${namesOf(columns)}, ${sql.raw(leave.join(", "))})
      SELECT ${of((_, rowId) => rowId)}::uuid, who.key, 'none',
        ${of((call) => (directionOf(call) === undefined ? null : call.decision.target))}::text, ${valuesOf(columns)},
        ${of(joinedOf)}::bigint, ${of(({ leg }) => leg.event.createdAtMs)}::bigint, ${of((_, __, { aborted }) => aborted)}::boolean,
        ${of(({ leg }) => storable(leg.participant.attributes.get("sip.callStatus") ?? ""))}::text,
        ${of(({ leg }) => storable(leg.participant.disconnectReason))}::text
      FROM who
      ON CONFLICT (call_key) DO UPDATE SET ${mergesOf(columns)}, ${sql.join(leave.map(won))}
      WHERE ${newerLeave} OR ${anyMoves(columns)}
      RETURNING ${loggedOf("c")}
    )
    ${reported}
  `
})

const outboundStatement = statement<[leg: LegEvent, rowId: string]>(
  (of) => sql`
    INSERT INTO calls AS c (id, call_key, state, direction, sip_call_id, participant_identity,
      room_key, room_name, room_sid)
    VALUES (${of((_, rowId) => rowId)}::uuid, ${of(callKey)}::text, 'none', 'outbound',
      ${of(({ participant }) => storable(participant.attributes.get("sip.callID") ?? ""))}::text,
      ${of(({ participant }) => storable(participant.identity))}::text, ${of(({ event }) => roomKey(event))}::text,
      ${of(({ event }) => storable(event.room.name))}::text, ${of(({ event }) => storable(event.room.sid))}::text)
    ON CONFLICT (call_key) DO UPDATE SET direction = 'outbound' WHERE c.direction IS NULL
  `,
)

const answererStatement = statement<[leg: LegEvent, leftAtMs: number | undefined], LogChange>(
  (of) => sql`
    WITH moved AS (
      INSERT INTO answerers AS a (room_key, participant, identity, kind, call_key, joined_ms, left_at_ms)
      VALUES (${of(({ event }) => roomKey(event))}::text,
        ${of(({ participant }) => indexed(participant.sid || participant.identity))}::text,
        ${of(({ participant }) => storable(participant.identity))}::text,
        ${of(({ participant }) => storable(participant.kind))}::text,
        ${of((leg) => (leg.participant.kind === "SIP" ? callKey(leg) : null))}::text,
        ${of(({ event, participant }) => participant.joinedAtMs || event.createdAtMs)}::bigint,
        ${of((_, leftAtMs) => leftAtMs ?? null)}::bigint)
      ON CONFLICT (room_key, participant) DO UPDATE SET
        joined_ms = least(a.joined_ms, excluded.joined_ms), left_at_ms = least(a.left_at_ms, excluded.left_at_ms)
      WHERE excluded.joined_ms < a.joined_ms OR least(a.left_at_ms, excluded.left_at_ms) IS DISTINCT FROM a.left_at_ms
      RETURNING a.room_key
    )
    SELECT ${changeColumns("(d.was)", "(d.now)")} FROM moved CROSS JOIN LATERAL derive_room(moved.room_key) d
  `,
)

export class CallLog extends Context.Service<
  CallLog,
  {
    /** A caller has joined, told to somebody who does not hand calls over. */
    readonly recordJoin: (call: Call) => Effect.Effect<void, DatabaseError>
    /** The caller's leg has left: ends every join that is not newer than this one. */
    readonly recordLeave: (call: Call, leave: Leave) => Effect.Effect<void, DatabaseError>
    /** A leg that we called: never handed over, and its room is taken. */
    readonly recordOutbound: (leg: LegEvent) => Effect.Effect<void, DatabaseError>
    /** Somebody who may answer a caller is in the room, or was until `leftAtMs`. */
    readonly recordAnswerer: (leg: LegEvent, leftAtMs?: number) => Effect.Effect<void, DatabaseError>
  }
>()("switchhook/calls/CallLog") {
  static readonly layer = Layer.effect(
    CallLog,
    Effect.gen(function* () {
      const database = yield* Database
      return CallLog.of({
        recordJoin: (call) =>
          database.run(joinStatement(call, newRowId())).pipe(
            Effect.flatMap(tellChanges),
            // The other leg of the two was faster, and this one is somebody we called.
            Effect.catchIf(isRoomTaken, () => Effect.void),
          ),
        recordLeave: (call, leave) =>
          Effect.flatMap(database.run(leaveStatement(call, newRowId(), leave)), tellChanges),
        recordOutbound: (leg) => Effect.asVoid(database.run(outboundStatement(leg, newRowId()))),
        recordAnswerer: (leg, leftAtMs) =>
          Effect.flatMap(database.run(answererStatement(leg, leftAtMs)), tellChanges),
      })
    }),
  )
}

/** True for whoever may answer a caller: an agent, a person, or a leg that we called and that picked up. */
export const mayAnswer = (participant: Pick<EventParticipant, "kind" | "attributes">): boolean =>
  participant.kind === "AGENT" ||
  participant.kind === "STANDARD" ||
  (participant.kind === "SIP" &&
    participant.attributes.get("sip.callStatus") === "active" &&
    (participant.attributes.get("sip.ruleID") ?? "") === "")
