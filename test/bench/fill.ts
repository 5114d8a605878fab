// A ledger as it is after months: calls that were answered and have ended, with all that belongs to them.

import pg from "pg"

/** How many numbers a large installation has. */
export const largeDids = 100_000

const tables = ["calls", "dispatch_attempts", "call_aliases", "sessions", "answerers"]

interface Kept {
  readonly table: string
  readonly name: string
  readonly definition: string
}

const constraintsSql = `
  SELECT conrelid::regclass::text AS table, conname AS name, pg_get_constraintdef(oid) AS definition
  FROM pg_constraint WHERE conrelid::regclass::text = ANY ($1) AND contype IN ('p', 'u', 'f')
  ORDER BY contype = 'f', contype`

const indexesSql = `
  SELECT tablename AS table, indexname AS name, indexdef AS definition FROM pg_indexes i
  WHERE tablename = ANY ($1) AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = i.indexname)`

/** Rows are written without indexes, which are made afterwards: otherwise each would be written at random places. */
const withoutIndexes = async (client: pg.Client, write: () => Promise<void>) => {
  const constraints = (await client.query<Kept>(constraintsSql, [tables])).rows
  const indexes = (await client.query<Kept>(indexesSql, [tables])).rows
  for (const { name } of indexes) await client.query(`DROP INDEX ${pg.escapeIdentifier(name)}`)
  for (const { name, table } of constraints.toReversed())
    await client.query(`ALTER TABLE ${table} DROP CONSTRAINT ${pg.escapeIdentifier(name)}`)
  await write()
  for (const { definition, name, table } of constraints)
    await client.query(`ALTER TABLE ${table} ADD CONSTRAINT ${pg.escapeIdentifier(name)} ${definition}`)
  for (const { definition } of indexes) await client.query(definition)
}

// Each call came some time in the last 90 days, rang for 2 s and lasted 40 s to 10 min.
const callsSql = `
  INSERT INTO calls (id, call_key, state, claim, owner, attempts, worker, worker_url, answer_status, answer_type,
    answer_body, caller_joined_ms, caller_left_ms, direction, status, caller, caller_e164, dialed, dialed_e164, trunk_id,
    rule_id, sip_call_id, sip_call_id_full, participant_identity, room_key, room_name, room_sid, target, outcome,
    tenant_id, did_id, metadata, explanation, created_at, claimed_at, settled_at, caller_first_joined_ms, left_at_ms,
    left_aborted, left_status, left_reason, started_at_ms, answered_at_ms, ended_at_ms, ring_ms, duration_ms, hung_up_by,
    end_reason, answerers, ended_once)
  SELECT uuidv7(to_timestamp(at / 1000.0) - now()), 'SCL_' || sid, 'accepted', gen_random_uuid(), 'replica-1:1', 1, 'worker-1',
    'http://10.0.0.1:9000', 200, 'application/json', convert_to('{"ok":true,"worker":"worker-1"}', 'UTF8'), at, at, 'inbound',
    'completed', who, who, d.number, d.number, 'ST_old', 'SDR_old', 'SCL_' || sid, n || '@10.0.0.9', 'sip_' || who,
    'RM_' || sid, 'call-_' || who || '_' || sid, 'RM_' || sid, 'fleet', 'accepted', d.tenant_id, d.id,
    json_build_object('call_type', 'inbound', 'phone_number_id', d.id, 'tenant_id', d.tenant_id, 'campaign_id', null,
      'from_number', who, 'to_number', d.number, 'trunk_id', 'ST_old')::text,
    jsonb_build_object('dialed_from', 'sip.trunkPhoneNumber', 'trunk', 'ST_old', 'route',
      jsonb_build_object('number', d.number, 'did', d.id, 'tenant', d.tenant_id, 'target', 'fleet'), 'took_ms',
      jsonb_build_object('authenticate', 0.2, 'route', 0.1, 'select', 0.1, 'claim', 1.4, 'relay', 2.6)),
    to_timestamp(at / 1000.0), to_timestamp(at / 1000.0), to_timestamp(at / 1000.0) + interval '5 ms', at,
    at + 2000 + lasted, false, 'hangup', 'CLIENT_INITIATED', at, at + 2000, at + 2000 + lasted, 2000, lasted, 'caller',
    'hung up', 1, true
  FROM (
    SELECT n, left(md5(n::text), 16) AS sid, '+1555' || (1000000 + n * 7919 % 9000000) AS who, 40000 + n * 31 % 560000 AS lasted,
      (extract(epoch FROM now()) * 1000)::bigint - 3600000 - (($1::bigint - n) * 7776000000 / $1::bigint) AS at
    FROM generate_series($2::bigint, $3::bigint) n
  ) c JOIN numbered d ON d.position = c.n % $4::bigint`

// What belongs to the calls that were written since that one.
const others = [
  `INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url, started_at, ended_at, outcome, status)
   SELECT id, 1, claim, worker, worker_url, claimed_at, settled_at, 'accepted', 200 FROM calls WHERE started_at_ms > $1`,
  `INSERT INTO call_aliases (alias, call_key) SELECT sip_call_id_full, call_key FROM calls WHERE started_at_ms > $1`,
  `INSERT INTO sessions (room_key, room_sid, room_name, started_at_ms, restarted_at_ms, ended_at_ms, created_at)
   SELECT room_key, room_sid, room_name, started_at_ms, started_at_ms, ended_at_ms, created_at FROM calls
   WHERE started_at_ms > $1`,
  `INSERT INTO answerers (room_key, participant, identity, kind, joined_ms, left_at_ms)
   SELECT room_key, 'PA_' || room_key, 'agent-' || room_key, 'AGENT', answered_at_ms, ended_at_ms FROM calls
   WHERE started_at_ms > $1`,
]

const perStatement = 500_000

/** Writes the calls from `first` to `last` of so many. */
const writeCalls = async (client: pg.Client, first: number, last: number, of: number) => {
  const { rows } = await client.query<{ newest: string }>(
    "SELECT coalesce(max(started_at_ms), 0) AS newest FROM calls",
  )
  for (let from = first; from <= last; from += perStatement)
    await client.query(callsSql, [of, from, Math.min(last, from + perStatement - 1), largeDids])
  for (const sql of others) await client.query(sql, [rows[0]?.newest])
}

// So many of the calls are written as calls come, into indexes that are there. Those were full of what is in order; now
// their pages have parted, and after a checkpoint nearly all of them were written as a whole: as it is most of the
// time, and costs each call a tenth more right after a checkpoint.
const lateShare = 0.02

// A service that has been at work for a while has its indexes in memory; of the tables it reads the newest rows only.
const readIndexes = `
  CREATE EXTENSION pg_prewarm;
  SELECT pg_prewarm(oid) FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace`

/** Fills a migrated database that has its numbers, without its triggers, and counts what it then holds. */
export const fill = async (url: string, calls: number): Promise<void> => {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query("SET session_replication_role = replica")
    await client.query("SET maintenance_work_mem = '512MB'")
    await client.query("CREATE TEMP TABLE numbered AS SELECT position, number, id, tenant_id FROM dids")
    const early = Math.floor(calls * (1 - lateShare))
    await withoutIndexes(client, () => writeCalls(client, 1, early, calls))
    await client.query("VACUUM ANALYZE")
    await client.query("CHECKPOINT")
    await client.query(readIndexes)
    await writeCalls(client, early + 1, calls, calls)
    const { rows } = await client.query<{ calls: number }>("SELECT count(*)::int AS calls FROM calls")
    if (rows[0]?.calls !== calls) throw new Error(`${rows[0]?.calls} calls instead of ${calls}`)
  } finally {
    await client.end()
  }
}
