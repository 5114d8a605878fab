// The tables as Kysely knows them; the truth is in `sql/`.

import {
  type ColumnType,
  DummyDriver,
  type Generated,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
} from "kysely"

type Timestamp = ColumnType<Date, Date | string | undefined, Date | string>
/** Milliseconds; one driver reads a bigint as text, the other as a number. */
type Millis = string | number | null
type Json = ColumnType<unknown, string, string>

export type CallState = "none" | "handing" | "accepted" | "rejected" | "waiting" | "uncertain"
export type AttemptOutcome = "not-sent" | "accepted" | "rejected" | "ambiguous"

export interface Tables {
  readonly system_settings: {
    key: string
    value: Json
    updated_at: Timestamp
  }
  readonly tenants: {
    id: Generated<string>
    name: string
    default_agent: string | null
    created_at: Timestamp
  }
  readonly campaigns: {
    id: Generated<string>
    tenant_id: string
    name: string
    agent_name: string | null
    active: Generated<boolean>
    created_at: Timestamp
  }
  readonly carriers: {
    id: Generated<string>
    name: string
    lk_inbound_trunk_id: string | null
    lk_dispatch_rule_id: string | null
    /** Set where it was deleted while there are calls of it. */
    archived_at: ColumnType<Date | null, Date | string | null | undefined, Date | string | null>
    created_at: Timestamp
  }
  readonly dids: {
    id: Generated<string>
    number: string
    raw_number: string
    type: "local" | "mobile" | "national" | "toll-free" | null
    carrier_id: string | null
    position: Generated<number>
    tenant_id: string | null
    campaign_id: string | null
    target: "fleet" | "agent" | null
    created_at: Timestamp
  }
  readonly leads: {
    id: Generated<string>
    tenant_id: string | null
    campaign_id: string
    number: string
    raw_number: string
    name: string
    status: string
    last_call_at: ColumnType<Date | null, Date | string | null | undefined, Date | string | null>
    created_at: Timestamp
  }
  readonly calls: {
    id: string
    call_key: string
    state: CallState
    claim: string | null
    owner: string | null
    lease_until: Timestamp | null
    attempts: Generated<number>
    unsent: Generated<number>
    worker: string | null
    worker_url: string | null
    answer_status: number | null
    answer_type: string | null
    answer_body: Uint8Array | null
    caller_joined_ms: Millis
    caller_left_ms: Millis
    direction: "inbound" | "outbound" | null
    status: string | null
    caller: string | null
    caller_e164: string | null
    dialed: string | null
    dialed_e164: string | null
    trunk_id: string | null
    rule_id: string | null
    sip_call_id: string | null
    sip_call_id_full: string | null
    participant_identity: string | null
    room_key: string
    room_name: string | null
    room_sid: string | null
    target: string | null
    agent_name: string | null
    outcome: string | null
    tenant_id: string | null
    campaign_id: string | null
    lead_id: string | null
    did_id: string | null
    /** The JSON text that an agent is given. */
    metadata: string | null
    explanation: Json | null
    asked_id: string | null
    caller_first_joined_ms: Millis
    left_at_ms: Millis
    left_aborted: boolean | null
    left_status: string | null
    left_reason: string | null
    started_at_ms: Millis
    answered_at_ms: Millis
    ended_at_ms: Millis
    ring_ms: Millis
    duration_ms: Millis
    hung_up_by: "caller" | "us" | null
    end_reason: string | null
    answerers: Generated<number>
    ended_once: Generated<boolean>
    lead_created: Generated<boolean>
    created_at: Timestamp
    claimed_at: Timestamp | null
    settled_at: Timestamp | null
    watch_at: Timestamp | null
    watched: Generated<number>
    rescues: Generated<number>
    unanswered_at: Timestamp | null
  }
  readonly dispatch_attempts: {
    call_id: string
    attempt: number
    claim: string
    /** The worker's or the agent's name. */
    worker: string
    worker_url: string | null
    target: Generated<"fleet" | "agent">
    started_at: Timestamp
    ended_at: Timestamp | null
    outcome: AttemptOutcome | null
    status: number | null
    reason: string | null
    lapsed: Generated<boolean>
  }
  readonly sessions: {
    room_key: string
    room_sid: string
    room_name: string
    started_at_ms: Millis
    restarted_at_ms: Millis
    ended_at_ms: Millis
    status: Generated<"ready" | "live" | "stopped">
    created_at: Timestamp
  }
  readonly answerers: {
    room_key: string
    participant: string
    identity: string
    kind: string
    call_key: string | null
    joined_ms: Millis
    left_at_ms: Millis
  }
  readonly call_aliases: {
    alias: string
    call_key: string
  }
  readonly cache_versions: {
    topic: string
    version: string | number
  }
}

/** Builds and compiles queries without a connection; `Database.run` executes them. */
export const query = new Kysely<Tables>({
  dialect: {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  },
})

/** A text that PostgreSQL can hold: it refuses NUL, and half of a surrogate pair is no UTF-8. */
export const storable = (text: string): string => text.toWellFormed().replaceAll("\0", "\ufffd")

/** JSON that a `jsonb` column can hold, whatever the texts in it are. */
export const storableJson = (value: unknown): string =>
  JSON.stringify(value, (_, item) => (typeof item === "string" ? storable(item) : item))
