// What an event about a caller's leg puts into its row of `calls`, and how that merges with what stands there.

import { type RawBuilder, sql } from "kysely"
import type { DatabaseError } from "../database/errors.ts"
import { storable } from "../database/schema.ts"
import type { Of } from "../database/statement.ts"
import { type Call, callNames, meetingOf, roomKey } from "./call.ts"

/** Values of a call, as a statement takes them. */
export type OfCall = Of<[call: Call]>

type Part = RawBuilder<unknown>

/** One column: what a new row gets, and what becomes of it by that where there is a row `c` already. */
interface Column {
  readonly name: string
  readonly value: Part
  readonly merged: (value: Part) => Part
}

const stored = (name: string) => sql.raw(`c.${name}`)
const excluded = (name: string) => sql.raw(`excluded.${name}`)

const kept = (name: string, value: Part): Column => ({
  name,
  value,
  merged: (given) => sql`coalesce(${stored(name)}, ${given})`,
})
const keptText = (name: string, value: Part): Column => ({
  name,
  value,
  merged: (given) => sql`coalesce(nullif(${stored(name)}, ''), ${given})`,
})
const least = (name: string, value: Part): Column => ({
  name,
  value,
  merged: (given) => sql`least(${stored(name)}, ${given})`,
})
const greatest = (name: string, value: Part): Column => ({
  name,
  value,
  merged: (given) => sql`greatest(${stored(name)}, ${given})`,
})
// Whoever asked us knows the room's name at most; with its sid come the facts of the room.
const ofRoom = (name: string, value: Part): Column => ({
  name,
  value,
  merged: (given) => sql`CASE WHEN coalesce(c.room_sid, '') = '' THEN ${given} ELSE ${stored(name)} END`,
})

/** A leg that has a dispatch rule is inbound for certain; one without may be somebody we called. */
export const ruleOf = (call: Call): string => call.leg.participant.attributes.get("sip.ruleID") ?? ""

/** The key of the call's room. */
export const roomOf = ({ leg }: Call): string => roomKey(leg.event)

/** LiveKit's joinedAt of the leg, in milliseconds. */
export const joinedOf = ({ leg }: Call): number => leg.participant.joinedAtMs

/** The columns that any event about the caller's leg fills; `direction` where the event shows it. */
export const legColumns = (
  of: OfCall,
  direction: (call: Call) => "inbound" | undefined,
): ReadonlyArray<Column> => {
  const text = (value: (call: Call) => string | undefined) =>
    sql`${of((call) => {
      const said = value(call)
      return said === undefined ? null : storable(said)
    })}::text`
  const uuid = (value: (call: Call) => string | undefined) => sql`${of((call) => value(call) ?? null)}::uuid`
  const bigint = (value: (call: Call) => number | undefined) =>
    sql`${of((call) => value(call) ?? null)}::bigint`
  return [
    kept("direction", text(direction)),
    keptText(
      "caller",
      text((call) => call.callerNumber),
    ),
    kept(
      "caller_e164",
      text((call) => call.decision.callerE164),
    ),
    keptText(
      "dialed",
      text((call) => call.dialedNumber),
    ),
    kept(
      "dialed_e164",
      text((call) => call.decision.dialedE164),
    ),
    keptText(
      "trunk_id",
      text((call) => call.trunkId),
    ),
    keptText("rule_id", text(ruleOf)),
    keptText(
      "sip_call_id",
      text((call) => call.callId),
    ),
    keptText(
      "sip_call_id_full",
      text(({ leg }) => leg.participant.attributes.get("sip.callIDFull") ?? ""),
    ),
    keptText(
      "participant_identity",
      text(({ leg }) => leg.participant.identity),
    ),
    ofRoom("room_key", sql`${of(roomOf)}::text`),
    ofRoom(
      "room_name",
      text(({ leg }) => leg.event.room.name),
    ),
    ofRoom(
      "room_sid",
      text(({ leg }) => leg.event.room.sid),
    ),
    kept(
      "tenant_id",
      uuid((call) => call.decision.tenantId),
    ),
    kept(
      "campaign_id",
      uuid((call) => call.decision.campaignId),
    ),
    kept(
      "did_id",
      uuid((call) => call.decision.didId),
    ),
    least(
      "caller_first_joined_ms",
      bigint(({ leg }) => leg.participant.joinedAtMs || leg.event.createdAtMs || undefined),
    ),
    greatest("caller_joined_ms", sql`${of(joinedOf)}::bigint`),
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
  sql.join(columns.map(({ merged, name }) => sql`${sql.raw(name)} = ${merged(excluded(name))}`))

/** True where merging would change the row, beside an `INSERT`; repeated events are not written again. */
export const anyMoves = (columns: ReadonlyArray<Column>): RawBuilder<boolean> =>
  sql<boolean>`(${sql.join(
    columns.map(({ merged, name }) => sql`${stored(name)} IS DISTINCT FROM ${merged(excluded(name))}`),
    sql` OR `,
  )})`

/** The call's key, by whatever name the event knows the call. */
export const keyOfLeg = (of: OfCall): RawBuilder<string> =>
  sql<string>`call_key_of(${of(({ key }) => key)}::text, ${of(({ leg }) => callNames(leg))}::text[],
    ${of(({ callerNumber, decision, leg }) => meetingOf(leg.event.room.name, decision.callerE164 ?? callerNumber))}::text,
    false)`

/** The key of the call that goes by this name, or would. */
export const keyNamed = (name: string): RawBuilder<string> =>
  sql<string>`coalesce((SELECT n.call_key FROM call_aliases n WHERE n.alias = ${name}::text), ${name}::text)`

/** True where two legs without a dispatch rule came into one room at once, and the other one has it. */
export const isRoomTaken = (error: DatabaseError): boolean =>
  error._tag === "QueryRefused" && error.constraint === "calls_one_leg_without_rule"
