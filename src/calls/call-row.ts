// What an event about a caller's leg puts into its row of `calls`, and how that merges with what stands there.

import { type RawBuilder, sql } from "kysely"
import type { DatabaseError } from "../database/errors.ts"
import { storable } from "../database/schema.ts"
import { type Call, callNames, meetingOf, roomKey } from "./call.ts"

/** One column: what a new row gets, and what becomes of it where there is a row `c` already. */
interface Column {
  readonly name: string
  readonly value: RawBuilder<unknown>
  readonly merged: RawBuilder<unknown>
}

const text = (value: string | undefined) => sql`${value === undefined ? null : storable(value)}::text`
const uuid = (value: string | undefined) => sql`${value ?? null}::uuid`
const bigint = (value: number | undefined) => sql`${value ?? null}::bigint`
const ref = (table: "c" | "excluded", name: string) => sql`${sql.raw(`${table}.${name}`)}`

const kept = (name: string, value: RawBuilder<unknown>): Column => ({
  name,
  value,
  merged: sql`coalesce(${ref("c", name)}, ${ref("excluded", name)})`,
})
const keptText = (name: string, value: string): Column => ({
  name,
  value: text(value),
  merged: sql`coalesce(nullif(${ref("c", name)}, ''), ${ref("excluded", name)})`,
})
const least = (name: string, value: number | undefined): Column => ({
  name,
  value: bigint(value),
  merged: sql`least(${ref("c", name)}, ${ref("excluded", name)})`,
})
const greatest = (name: string, value: number | undefined): Column => ({
  name,
  value: bigint(value),
  merged: sql`greatest(${ref("c", name)}, ${ref("excluded", name)})`,
})
// Whoever asked us knows the room's name at most; with its sid come the facts of the room.
const ofRoom = (name: string, value: string): Column => ({
  name,
  value: text(value),
  merged: sql`CASE WHEN coalesce(c.room_sid, '') = '' THEN ${ref("excluded", name)} ELSE ${ref("c", name)} END`,
})

/** A leg that has a dispatch rule is inbound for certain; one without may be somebody we called. */
export const ruleOf = (call: Call): string => call.leg.participant.attributes.get("sip.ruleID") ?? ""

/** The columns that any event about the caller's leg fills; `direction` where the event shows it. */
export const legColumns = (call: Call, direction: "inbound" | undefined): ReadonlyArray<Column> => {
  const { event, participant } = call.leg
  const { decision } = call
  return [
    kept("direction", text(direction)),
    keptText("caller", call.callerNumber),
    kept("caller_e164", text(decision.callerE164)),
    keptText("dialed", call.dialedNumber),
    kept("dialed_e164", text(decision.dialedE164)),
    keptText("trunk_id", call.trunkId),
    keptText("rule_id", ruleOf(call)),
    keptText("sip_call_id", call.callId),
    keptText("sip_call_id_full", participant.attributes.get("sip.callIDFull") ?? ""),
    keptText("participant_identity", participant.identity),
    ofRoom("room_key", roomKey(event)),
    ofRoom("room_name", event.room.name),
    ofRoom("room_sid", event.room.sid),
    kept("tenant_id", uuid(decision.tenantId)),
    kept("campaign_id", uuid(decision.campaignId)),
    kept("did_id", uuid(decision.didId)),
    least("caller_first_joined_ms", participant.joinedAtMs || event.createdAtMs || undefined),
    greatest("caller_joined_ms", participant.joinedAtMs),
  ]
}

/** The names of the columns, for `INSERT INTO calls AS c (…)`. */
export const namesOf = (columns: ReadonlyArray<Column>): RawBuilder<unknown> =>
  sql.raw(columns.map(({ name }) => name).join(", "))

/** Their values, for `SELECT …`. */
export const valuesOf = (columns: ReadonlyArray<Column>): RawBuilder<unknown> =>
  sql.join(columns.map(({ value }) => value))

/** What they become, for `ON CONFLICT (call_key) DO UPDATE SET …`. */
export const mergesOf = (columns: ReadonlyArray<Column>): RawBuilder<unknown> =>
  sql.join(columns.map(({ merged, name }) => sql`${sql.raw(name)} = ${merged}`))

/** True where merging would change the row; repeated events are not written again. */
export const anyMoves = (columns: ReadonlyArray<Column>): RawBuilder<boolean> =>
  sql<boolean>`(${sql.join(
    columns.map(({ merged, name }) => sql`${ref("c", name)} IS DISTINCT FROM ${merged}`),
    sql` OR `,
  )})`

/** The call's key, by whatever name the event knows the call. */
export const keyOfLeg = (call: Call): RawBuilder<string> =>
  sql<string>`call_key_of(${call.key}::text, ${callNames(call.leg)}::text[],
    ${meetingOf(call.leg.event.room.name, call.decision.callerE164 ?? call.callerNumber)}::text, false)`

/** True where two legs without a dispatch rule came into one room at once, and the other one has it. */
export const isRoomTaken = (error: DatabaseError): boolean =>
  error._tag === "QueryRefused" && error.constraint === "calls_one_leg_without_rule"
