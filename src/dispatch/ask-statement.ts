// The statement that gives a call to whoever asks for its agent.

import { sql } from "kysely"
import { indexed } from "../calls/call.ts"
import { changeColumns, type LogChange, loggedOf } from "../calls/changes.ts"
import { type CallState, storable, storableJson } from "../database/schema.ts"
import { statement } from "../database/statement.ts"
import type { Decision } from "../routing/decision.ts"
import { routeOf } from "./explanation.ts"
import { replica } from "./lease.ts"

/** What somebody asks who will dispatch the agent that we name. */
export interface Ask {
  /** Their id of the call, as it is looked up. */
  readonly key: string
  readonly askedId: string
  readonly roomName: string
  readonly meeting: string
  readonly from: string
  readonly to: string
  readonly trunkId: string
  readonly decision: Decision
  /** How long somebody may take to join the caller, before the watch looks after the call. */
  readonly answerWithinMs: number
}

/** What the statement says of the call's row, as it is afterwards. */
export interface AskedRow extends LogChange {
  readonly state: CallState
  readonly agent_name: string | null
  readonly metadata: string | null
  readonly left: boolean
  readonly moved: boolean
  readonly taken_now: boolean
}

type AskInput = [ask: Ask, rowId: string, claimId: string, answer: string]

// Whoever asks has the call from now on, if nobody had it: it counts as accepted. One statement, like the claim.
export const askStatement = statement<AskInput, AskedRow>((of) => {
  const text = (value: (ask: Ask) => string | undefined) =>
    sql`${of((ask) => {
      const said = value(ask)
      return said === undefined ? null : storable(said)
    })}::text`
  const uuid = (value: (decision: Decision) => string | undefined) =>
    sql`${of(({ decision }) => value(decision) ?? null)}::uuid`
  const claimId = sql`${of((_, __, id) => id)}::uuid`
  const roomKey = sql`${of(({ roomName }) => indexed(roomName))}::text`
  const roomName = text((ask) => ask.roomName)
  const left = sql<boolean>`coalesce(c.caller_left_ms >= coalesce(c.caller_joined_ms, c.caller_left_ms), false)`
  const takes = sql<boolean>`(c.state IN ('none', 'waiting') AND c.direction IS DISTINCT FROM 'outbound' AND NOT ${left})`
  const taken = (name: string) =>
    sql`${sql.raw(name)} = CASE WHEN ${takes} THEN ${sql.raw(`excluded.${name}`)} ELSE ${sql.raw(`c.${name}`)} END`
  const kept = (name: string) => sql`${sql.raw(name)} = coalesce(${sql.raw(`c.${name}, excluded.${name}`)})`
  const claimed = ["state", "claim", "owner", "target", "agent_name", "metadata", "outcome", "answer_status"]
  const facts = ["asked_id", "direction", "caller", "caller_e164", "dialed", "dialed_e164", "trunk_id"]
  const verdict = sql`c.state, c.agent_name, c.metadata, ${left} AS "left",
    coalesce(c.claim = ${claimId}, false) AS taken_now, ${changeColumns("before", "c")}`
  const seen = ["state", "agent_name", "metadata", "claim", "caller_left_ms", "caller_joined_ms"]
  return sql`
    WITH who AS MATERIALIZED (
      SELECT call_key_asked(${of(({ key }) => key)}::text, ${of(({ meeting }) => meeting)}::text, ${roomKey},
        ${roomName}, ${text(({ decision, from }) => decision.callerE164 ?? from)}) AS key
    ),
    before AS (SELECT ${loggedOf("b")} FROM calls b, who WHERE b.call_key = who.key),
    asked AS (
      INSERT INTO calls AS c (
        id, call_key, state, claim, owner, target, agent_name, metadata, outcome, answer_status, answer_type,
        answer_body, claimed_at, settled_at, asked_id, direction, caller, caller_e164, dialed, dialed_e164, trunk_id,
        tenant_id, campaign_id, did_id, room_key, room_name, answer_within, explanation
      )
      SELECT ${of((_, rowId) => rowId)}::uuid, who.key, 'accepted', ${claimId}, ${replica}::text, 'agent',
        ${text(({ decision }) => decision.agent.name)}, ${of(({ decision }) => decision.metadata)}::text, 'accepted', 200,
        'application/json', convert_to(${of((_, __, ___, answer) => answer)}::text, 'UTF8'), clock_timestamp(),
        clock_timestamp(), ${text(({ askedId }) => askedId)}, 'inbound', ${text(({ from }) => from)},
        ${text(({ decision }) => decision.callerE164)}, ${text(({ to }) => to)},
        ${text(({ decision }) => decision.dialedE164)}, ${text(({ trunkId }) => trunkId)},
        ${uuid(({ tenantId }) => tenantId)}, ${uuid(({ campaignId }) => campaignId)}, ${uuid(({ didId }) => didId)},
        ${roomKey}, ${roomName},
        ${of(({ answerWithinMs }) => answerWithinMs)}::integer * interval '1 millisecond',
        ${of(({ decision }) => storableJson({ route: routeOf(decision) }))}::jsonb
      FROM who
      ON CONFLICT (call_key) DO UPDATE SET
        ${sql.join(claimed.map(taken))}, ${sql.join(["answer_type", "answer_body", "settled_at"].map(taken))},
        ${sql.join([...facts, "tenant_id", "campaign_id", "did_id", "explanation", "claimed_at"].map(kept))}
      WHERE ${takes} OR c.asked_id IS NULL
      RETURNING ${loggedOf("c", seen)}
    )
    SELECT ${verdict}, true AS moved FROM asked c LEFT JOIN before ON true
    UNION ALL
    SELECT ${verdict}, false AS moved FROM who JOIN calls c ON c.call_key = who.key LEFT JOIN before ON true
    WHERE NOT EXISTS (SELECT 1 FROM asked)
  `
})
