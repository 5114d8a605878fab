// Whose trunk it is, and which number stands in for a call whose dialed number LiveKit hides: its first DID.

import { Context, Effect, Layer } from "effect"
import { sql } from "kysely"
import { Cache } from "../database/cache.ts"
import { Database } from "../database/database.ts"
import { query } from "../database/schema.ts"
import type { CarrierRef } from "../routing/decision.ts"

interface Row extends CarrierRef {
  readonly trunk_id: string
  readonly number: string | null
}

const trunks = sql<Row>`
  SELECT c.lk_inbound_trunk_id AS trunk_id, c.id, c.name, d.number
  FROM carriers c
  LEFT JOIN LATERAL (
    SELECT number FROM dids WHERE carrier_id = c.id ORDER BY position, number LIMIT 1
  ) d ON true
  WHERE c.lk_inbound_trunk_id IS NOT NULL AND c.archived_at IS NULL
`.compile(query)

export class TrunkDirectory extends Context.Service<
  TrunkDirectory,
  {
    /** The first DID, E.164, of the carrier with that inbound trunk; from memory. */
    readonly firstDidOf: (trunkId: string) => string | undefined
    /** The carrier with that inbound trunk; from memory. */
    readonly carrierOf: (trunkId: string) => CarrierRef | undefined
  }
>()("switchhook/carriers/TrunkDirectory") {
  static readonly layer = Layer.effect(
    TrunkDirectory,
    Effect.gen(function* () {
      const database = yield* Database
      const cache = yield* Cache
      const load = Effect.map(
        database.run(trunks),
        (rows) =>
          new Map(
            rows.map(({ id, name, number, trunk_id }) => [trunk_id, { number, carrier: { id, name } }]),
          ),
      )
      const followed = yield* cache.follow("carriers", load)
      return TrunkDirectory.of({
        firstDidOf: (trunkId) => followed.current()?.get(trunkId)?.number ?? undefined,
        carrierOf: (trunkId) => followed.current()?.get(trunkId)?.carrier,
      })
    }),
  )
}
