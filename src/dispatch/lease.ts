// The lease on a hand-over: for whoever holds it, and as the ledger's statements write it.

import { hostname } from "node:os"
import type { Effect } from "effect"
import { type RawBuilder, sql } from "kysely"
import type { DatabaseError } from "../database/errors.ts"

/** The lease on one hand-over. Only whoever holds it may send, and only while it is valid. */
export interface Lease {
  /** The call, and all names that it goes by. */
  readonly key: string
  readonly names: ReadonlyArray<string>
  readonly callRowId: string
  readonly claimId: string
  readonly attempt: number
  /** False as soon as another replica could take the call; never true for longer than the database says. */
  readonly isValid: () => boolean
  /** Extends it; false once it was lost. */
  readonly renew: Effect.Effect<boolean, DatabaseError>
}

/** How long a hand-over may go on without renewing its lease. */
export const leaseMs = 3_000

/** The end of a lease that begins now, by the database's clock. */
export const leaseUntil: RawBuilder<Date> = sql<Date>`clock_timestamp() + ${sql.lit(`${leaseMs} milliseconds`)}::interval`

/** Who this process is in `calls.owner`, for a person who reads the table. */
export const replica = `${hostname()}:${process.pid}`
