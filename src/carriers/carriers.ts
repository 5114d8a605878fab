// The queries of carriers and their DIDs. Each that writes is one statement, and does all of it or nothing.

import { sql } from "kysely"
import type { DatabaseError } from "../database/errors.ts"
import { all, assignments, type Key, type Page, where } from "../database/pages.ts"
import { query } from "../database/schema.ts"
import type { GivenNumber } from "../routing/dids.ts"

export interface CarrierDid {
  readonly id: string
  readonly number: string
  readonly position: number
  readonly tenant_id: string | null
  readonly campaign_id: string | null
  readonly target: "fleet" | "agent" | null
}

export interface CarrierRow {
  readonly id: string
  readonly name: string
  readonly lk_inbound_trunk_id: string | null
  readonly lk_dispatch_rule_id: string | null
  readonly created_at: Date
  readonly archived_at: Date | null
  readonly did_count: string | number
  readonly dids: ReadonlyArray<CarrierDid>
}

/** What is to change: what is not named stays, and null clears; `dids` is the whole new list. */
export interface CarrierPatch {
  readonly name?: string
  readonly lk_inbound_trunk_id?: string | null
  readonly archived?: boolean
  readonly dids?: ReadonlyArray<GivenNumber>
}

/** What became of a carrier: its id, or null where it is not there; and the numbers that others have. */
export interface CarrierWritten {
  readonly id: string | null
  readonly taken: ReadonlyArray<string>
}

// A carrier may have a hundred thousand numbers, and a page two hundred carriers.
const mostNested = 1_000

const carriers = sql`
  SELECT c.id, c.name, c.lk_inbound_trunk_id, c.lk_dispatch_rule_id, c.created_at, c.archived_at,
    (SELECT count(*) FROM dids d WHERE d.carrier_id = c.id) AS did_count,
    coalesce((
      SELECT jsonb_agg(jsonb_build_object('id', d.id, 'number', d.number, 'position', d.position,
        'tenant_id', d.tenant_id, 'campaign_id', d.campaign_id, 'target', d.target) ORDER BY d.position, d.number)
      FROM (SELECT * FROM dids WHERE carrier_id = c.id ORDER BY position, number LIMIT ${sql.lit(mostNested)}) d
    ), '[]'::jsonb) AS dids
  FROM carriers c`

/** By name. */
export const carriersStatement = ({ after, limit }: Page<Key>) =>
  sql<CarrierRow>`
    ${carriers}
    WHERE ${all([where(after, ([name, id]) => sql`(c.name, c.id) > (${name}::text, ${id}::uuid)`)])}
    ORDER BY c.name, c.id LIMIT ${limit}::integer
  `.compile(query)

export const carrierStatement = (id: string) =>
  sql<CarrierRow>`${carriers} WHERE c.id = ${id}::uuid`.compile(query)

const numbersOf = (dids: ReadonlyArray<GivenNumber>) => sql`${dids.map(({ e164 }) => e164)}::text[]`

// Those of an archived carrier are free to be taken over, with tenant and campaign as they are.
const taken = (dids: ReadonlyArray<GivenNumber>, id: string | undefined) => sql`
  taken AS (
    SELECT d.number FROM dids d JOIN carriers o ON o.id = d.carrier_id
    WHERE d.number = ANY (${numbersOf(dids)}) AND o.archived_at IS NULL
      AND o.id IS DISTINCT FROM ${id ?? null}::uuid
  )`

// Where two carriers are given one number at the same moment, `taken` sees neither. The later one comes upon it
// here and gets no position for it, which the column refuses, and with it the whole statement.
const placed = (dids: ReadonlyArray<GivenNumber>, source: string) => sql`
  placed AS (
    INSERT INTO dids (number, raw_number, type, carrier_id, position)
    SELECT n.number, n.raw, n.type, o.id, n.place - 1
    FROM ${sql.raw(source)} o,
      unnest(${numbersOf(dids)}, ${dids.map(({ raw }) => raw)}::text[], ${dids.map(({ type }) => type)}::text[])
        WITH ORDINALITY n (number, raw, type, place)
    -- In one order, or two lists could wait for each other.
    ORDER BY n.number
    ON CONFLICT (number) DO UPDATE SET
      carrier_id = excluded.carrier_id,
      type = coalesce(dids.type, excluded.type),
      position = CASE WHEN dids.carrier_id IS NULL OR dids.carrier_id = excluded.carrier_id
        OR EXISTS (SELECT 1 FROM carriers a WHERE a.id = dids.carrier_id AND a.archived_at IS NOT NULL)
        THEN excluded.position END
  )`

const notNullViolation = "23502"

/** The carriers and their numbers became others meanwhile: run once more, the statement sees them. */
export const isOvertaken = (error: DatabaseError): boolean =>
  error._tag === "QueryRefused" &&
  (error.code === notNullViolation || error.constraint === "dids_carrier_id_fkey")

const written = (source: string) =>
  sql`SELECT (SELECT id FROM ${sql.raw(source)}) AS id, ARRAY (SELECT number FROM taken) AS taken`

/** Makes a carrier with these numbers, unless another carrier has one of them. */
export const createCarrierStatement = (
  name: string,
  trunkId: string | null,
  dids: ReadonlyArray<GivenNumber>,
) =>
  sql<CarrierWritten>`
    WITH ${taken(dids, undefined)}, made AS (
      INSERT INTO carriers (name, lk_inbound_trunk_id)
      SELECT ${name}::text, ${trunkId}::text WHERE NOT EXISTS (SELECT 1 FROM taken)
      RETURNING id
    ), ${placed(dids, "made")}
    ${written("made")}
  `.compile(query)

/** Changes a carrier, unless another one has a number of its new list. */
export const patchCarrierStatement = (id: string, patch: CarrierPatch) => {
  const dids = patch.dids ?? []
  const { archived, lk_inbound_trunk_id: trunkId, name } = patch
  const changes = assignments({
    name: name === undefined ? undefined : sql`${name}::text`,
    lk_inbound_trunk_id: trunkId === undefined ? undefined : sql`${trunkId}::text`,
    archived_at:
      archived === undefined
        ? undefined
        : sql`CASE WHEN ${archived}::boolean THEN coalesce(archived_at, clock_timestamp()) END`,
  })
  return sql<CarrierWritten>`
    WITH ${taken(dids, id)}, known AS (
      SELECT id FROM carriers WHERE id = ${id}::uuid
    ), mine AS (
      SELECT id FROM known WHERE NOT EXISTS (SELECT 1 FROM taken)
    ), changed AS (
      UPDATE carriers SET ${changes.length === 0 ? sql`name = name` : sql.join(changes)}
      WHERE id IN (SELECT id FROM mine)
    ), released AS (
      UPDATE dids SET carrier_id = NULL, position = 0
      WHERE ${patch.dids !== undefined}::boolean AND carrier_id IN (SELECT id FROM mine)
        AND number <> ALL (${numbersOf(dids)})
    ), ${placed(dids, "mine")}
    ${written("known")}
  `.compile(query)
}

/** Deletes a carrier and lets its numbers go; where there are calls of it, it is archived with them instead. */
export const deleteCarrierStatement = (id: string) =>
  sql<{ id: string; archived: boolean }>`
    WITH mine AS (
      SELECT c.id, EXISTS (SELECT 1 FROM calls k WHERE left(k.trunk_id, 100) = left(c.lk_inbound_trunk_id, 100)
          AND k.trunk_id = c.lk_inbound_trunk_id AND k.trunk_id <> '')
        OR EXISTS (SELECT 1 FROM dids d JOIN did_numbers n ON n.did_id = d.id
          JOIN calls k ON k.dialed_e164 = n.number AND k.did_id = d.id WHERE d.carrier_id = c.id) AS called
      FROM carriers c WHERE c.id = ${id}::uuid
    ), archived AS (
      UPDATE carriers SET archived_at = coalesce(archived_at, clock_timestamp())
      WHERE id IN (SELECT id FROM mine WHERE called)
    ), released AS (
      UPDATE dids SET carrier_id = NULL, position = 0 WHERE carrier_id IN (SELECT id FROM mine WHERE NOT called)
    ), deleted AS (
      DELETE FROM carriers WHERE id IN (SELECT id FROM mine WHERE NOT called)
    )
    SELECT id, called AS archived FROM mine
  `.compile(query)
