// Which number stands in for a call whose dialed number LiveKit hides: the first DID of the carrier's trunk.

import { Context, Effect, Layer } from "effect"
import { sql } from "kysely"
import { Cache } from "../database/cache.ts"
import { Database } from "../database/database.ts"
import { query } from "../database/schema.ts"

const firstDids = sql<{ trunk_id: string; number: string }>`
  SELECT c.lk_inbound_trunk_id AS trunk_id, d.number
  FROM carriers c
  CROSS JOIN LATERAL (
    SELECT number FROM dids WHERE carrier_id = c.id ORDER BY position, number LIMIT 1
  ) d
  WHERE c.lk_inbound_trunk_id IS NOT NULL AND c.archived_at IS NULL
`.compile(query)

export class TrunkDirectory extends Context.Service<
  TrunkDirectory,
  {
    /** The first DID, E.164, of the carrier with that inbound trunk; from memory. */
    readonly firstDidOf: (trunkId: string) => string | undefined
  }
>()("switchhook/carriers/TrunkDirectory") {
  static readonly layer = Layer.effect(
    TrunkDirectory,
    Effect.gen(function* () {
      const database = yield* Database
      const cache = yield* Cache
      const load = Effect.map(
        database.run(firstDids),
        (rows) => new Map(rows.map((row) => [row.trunk_id, row.number])),
      )
      const followed = yield* cache.follow("carriers", load)
      return TrunkDirectory.of({ firstDidOf: (trunkId) => followed.current()?.get(trunkId) })
    }),
  )
}
