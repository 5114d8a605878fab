// The call log: the facts that events bring about calls, merged so that order and repetition change nothing.

import { Context, Effect, Layer } from "effect"
import { sql } from "kysely"
import { Database } from "../database/database.ts"
import type { DatabaseError } from "../database/errors.ts"
import { query, storable } from "../database/schema.ts"
import type { EventParticipant } from "../webhook/event.ts"
import { type Call, callKey, indexed, type LegEvent, roomKey } from "./call.ts"
import {
  anyMoves,
  isRoomTaken,
  keyOfLeg,
  legColumns,
  mergesOf,
  namesOf,
  ruleOf,
  valuesOf,
} from "./call-row.ts"
import { changeColumns, type LogChange, tellChanges } from "./changes.ts"

/** How the caller's leg has ended. */
export interface Leave {
  /** `participant_connection_aborted`: it never really came. */
  readonly aborted: boolean
}

const before = sql`before AS (SELECT b.* FROM calls b, who WHERE b.call_key = who.key)`

const reported = sql`
  SELECT ${changeColumns("before", "moved")} FROM moved LEFT JOIN before ON true`

const joinStatement = (call: Call, rowId: string) => {
  const columns = legColumns(call, "inbound")
  const room = roomKey(call.leg.event)
  return sql<LogChange>`
    WITH who AS MATERIALIZED (SELECT ${keyOfLeg(call)} AS key), ${before}, moved AS (
      INSERT INTO calls AS c (id, call_key, state, target, ${namesOf(columns)})
      SELECT ${rowId}::uuid, who.key, 'none', ${call.decision.target}::text, ${valuesOf(columns)} FROM who
      WHERE ${ruleOf(call) !== ""}::boolean
        OR NOT EXISTS (SELECT 1 FROM calls o WHERE o.room_key = ${room}::text AND o.call_key <> who.key)
        OR EXISTS (SELECT 1 FROM calls o WHERE o.call_key = who.key AND o.direction = 'inbound')
      ON CONFLICT (call_key) DO UPDATE SET ${mergesOf(columns)}, target = coalesce(c.target, excluded.target)
      WHERE c.direction IS DISTINCT FROM 'outbound' AND ${anyMoves(columns)}
      RETURNING c.*
    )
    ${reported}
  `.compile(query)
}

// Two leaves of one join cannot come, but were they to, the same one would win whatever their order.
const newerLeave = sql<boolean>`(
  c.caller_left_ms IS NULL
  OR (excluded.caller_left_ms, excluded.left_aborted, -excluded.left_at_ms, excluded.left_status, excluded.left_reason)
    > (c.caller_left_ms, c.left_aborted, -c.left_at_ms, c.left_status, c.left_reason))`

const leaveStatement = (call: Call, rowId: string, { aborted }: Leave) => {
  const { event, participant } = call.leg
  const direction = ruleOf(call) === "" ? null : "inbound"
  const columns = legColumns(call, direction ?? undefined)
  const won = (name: string) =>
    sql`${sql.raw(name)} = CASE WHEN ${newerLeave} THEN ${sql.raw(`excluded.${name}`)} ELSE ${sql.raw(`c.${name}`)} END`
  const leave = ["caller_left_ms", "left_at_ms", "left_aborted", "left_status", "left_reason"]
  return sql<LogChange>`
    WITH who AS MATERIALIZED (SELECT ${keyOfLeg(call)} AS key), ${before}, moved AS (
      INSERT INTO calls AS c (id, call_key, state, target, ${namesOf(columns)}, ${sql.raw(leave.join(", "))})
      SELECT ${rowId}::uuid, who.key, 'none', ${direction && call.decision.target}::text, ${valuesOf(columns)},
        ${participant.joinedAtMs}::bigint, ${event.createdAtMs}::bigint, ${aborted}::boolean,
        ${storable(participant.attributes.get("sip.callStatus") ?? "")}::text,
        ${storable(participant.disconnectReason)}::text
      FROM who
      ON CONFLICT (call_key) DO UPDATE SET ${mergesOf(columns)}, ${sql.join(leave.map(won))}
      WHERE ${newerLeave} OR ${anyMoves(columns)}
      RETURNING c.*
    )
    ${reported}
  `.compile(query)
}

const outboundStatement = (leg: LegEvent, rowId: string) => {
  const { event, participant } = leg
  return sql`
    INSERT INTO calls AS c (id, call_key, state, direction, sip_call_id, participant_identity,
      room_key, room_name, room_sid)
    VALUES (${rowId}::uuid, ${callKey(leg)}::text, 'none', 'outbound',
      ${storable(participant.attributes.get("sip.callID") ?? "")}::text, ${storable(participant.identity)}::text,
      ${roomKey(event)}::text, ${storable(event.room.name)}::text, ${storable(event.room.sid)}::text)
    ON CONFLICT (call_key) DO UPDATE SET direction = 'outbound' WHERE c.direction IS NULL
  `.compile(query)
}

const answererStatement = (leg: LegEvent, leftAtMs: number | undefined) => {
  const { event, participant } = leg
  const room = roomKey(event)
  const isLeg = participant.kind === "SIP"
  return sql<LogChange>`
    WITH moved AS (
      INSERT INTO answerers AS a (room_key, participant, identity, kind, call_key, joined_ms, left_at_ms)
      VALUES (${room}::text, ${indexed(participant.sid || participant.identity)}::text,
        ${storable(participant.identity)}::text, ${storable(participant.kind)}::text,
        ${isLeg ? callKey(leg) : null}::text, ${participant.joinedAtMs || event.createdAtMs}::bigint,
        ${leftAtMs ?? null}::bigint)
      ON CONFLICT (room_key, participant) DO UPDATE SET
        joined_ms = least(a.joined_ms, excluded.joined_ms), left_at_ms = least(a.left_at_ms, excluded.left_at_ms)
      WHERE excluded.joined_ms < a.joined_ms OR least(a.left_at_ms, excluded.left_at_ms) IS DISTINCT FROM a.left_at_ms
      RETURNING a.room_key
    )
    SELECT ${changeColumns("(d.was)", "(d.now)")} FROM moved CROSS JOIN LATERAL derive_room(moved.room_key) d
  `.compile(query)
}

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
          database.run(joinStatement(call, crypto.randomUUID())).pipe(
            Effect.flatMap(tellChanges),
            // The other leg of the two was faster, and this one is somebody we called.
            Effect.catchIf(isRoomTaken, () => Effect.void),
          ),
        recordLeave: (call, leave) =>
          Effect.flatMap(database.run(leaveStatement(call, crypto.randomUUID(), leave)), tellChanges),
        recordOutbound: (leg) => Effect.asVoid(database.run(outboundStatement(leg, crypto.randomUUID()))),
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
