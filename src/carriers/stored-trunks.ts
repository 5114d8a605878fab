// The carriers with what they have in LiveKit, as the database knows it; for commands that run beside the service.

import { Effect } from "effect"
import { type Compilable, type CompiledQuery, sql } from "kysely"
import type { CommandEngine } from "../database/engine.ts"
import { type DatabaseError, toDatabaseError } from "../database/errors.ts"
import { query } from "../database/schema.ts"

/** A carrier with its DIDs, in their order, and what it has in LiveKit. */
export interface StoredCarrier {
  readonly id: string
  readonly name: string
  readonly trunkId: string | undefined
  readonly ruleId: string | undefined
  readonly archived: boolean
  readonly numbers: ReadonlyArray<string>
}

const everyCarrier = sql<{
  id: string
  name: string
  trunk_id: string | null
  rule_id: string | null
  archived: boolean
  numbers: ReadonlyArray<string>
}>`
  SELECT c.id, c.name, c.lk_inbound_trunk_id AS trunk_id, c.lk_dispatch_rule_id AS rule_id,
    c.archived_at IS NOT NULL AS archived,
    ARRAY(SELECT d.number FROM dids d WHERE d.carrier_id = c.id ORDER BY d.position, d.number) AS numbers
  FROM carriers c ORDER BY c.name
`.compile(query)

const run = <A>(
  { kysely }: CommandEngine,
  statement: CompiledQuery<A> | Compilable<A>,
): Effect.Effect<ReadonlyArray<A>, DatabaseError> =>
  Effect.tryPromise({ try: () => kysely.executeQuery(statement), catch: toDatabaseError }).pipe(
    Effect.map(({ rows }) => rows),
  )

/** Every carrier, by name. */
export const storedCarriers = (
  engine: CommandEngine,
): Effect.Effect<ReadonlyArray<StoredCarrier>, DatabaseError> =>
  Effect.map(run(engine, everyCarrier), (rows) =>
    rows.map(({ archived, id, name, numbers, rule_id, trunk_id }) => ({
      id,
      name,
      trunkId: trunk_id ?? undefined,
      ruleId: rule_id ?? undefined,
      archived,
      numbers,
    })),
  )

/** Keeps what the carrier has in LiveKit. */
export const storeIds = (
  engine: CommandEngine,
  carrier: string,
  ids: { readonly trunkId: string; readonly ruleId?: string },
): Effect.Effect<void, DatabaseError> =>
  Effect.asVoid(
    run(
      engine,
      query
        .updateTable("carriers")
        .set({
          lk_inbound_trunk_id: ids.trunkId,
          ...(ids.ruleId !== undefined && { lk_dispatch_rule_id: ids.ruleId }),
        })
        .where("id", "=", carrier),
    ),
  )
