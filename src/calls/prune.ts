// Deletes old calls and rooms batch by batch, beside the service, which must not feel it.

import { Effect, Schedule } from "effect"
import type { CompiledQuery } from "kysely"
import type { CommandEngine } from "../database/engine.ts"
import { type DatabaseError, QueryRefused, toDatabaseError } from "../database/errors.ts"
import type { Key, Page } from "../database/pages.ts"
import {
  type Batch,
  type Bounds,
  cutoffStatement,
  pruneCallsStatement,
  pruneRoomsStatement,
} from "./prune-statements.ts"

/**
 * The least age: LiveKit delivers an event again for minutes, and one whose call is forgotten would hand it over anew.
 */
export const leastAgeMs = 3_600_000

export interface Pruning {
  /** How long ago a call must have ended. */
  readonly ageMs: number
  /** Rows that one batch looks at, at most. */
  readonly most: number
  /** Counts what would go. */
  readonly dryRun: boolean
}

/** What has gone so far, or would go. */
export interface Pruned {
  readonly calls: number
  readonly rooms: number
  /** How far it has come: milliseconds since 1970. */
  readonly atMs: number | undefined
}

// On the embedded database everybody else waits while a batch runs.
const batchMs = 40
const firstBatch = 20
const leastBatch = 5

// A batch takes so many times its own time in pauses: of what the database can do, a tenth at most is ours.
const pauses = 9

// Somebody holds a row for longer than a batch waits: an event about an old room, which takes milliseconds.
const heldUp = "55P03"
const again = { schedule: Schedule.spaced("1 second"), times: 30 }

/** The row that the statement returns, and how long that took. */
const ask = <A>({ kysely }: CommandEngine, statement: CompiledQuery<A>) =>
  Effect.tryPromise({
    try: async () => {
      const begunMs = performance.now()
      const { rows } = await kysely.executeQuery(statement)
      return { row: rows[0]!, tookMs: performance.now() - begunMs }
    },
    catch: toDatabaseError,
  })

const isHeldUp = (error: DatabaseError) => error instanceof QueryRefused && error.code === heldUp

/** As many rows as take a batch's time, if they take what the last ones took; never many more at once. */
const nextLimit = (limit: number, tookMs: number, most: number) =>
  Math.min(most, Math.max(leastBatch, Math.round(limit * Math.min(2, batchMs / tookMs))))

/** What goes through one of the tables, batch by batch, until it has come to the cutoff. */
const goThrough = Effect.fnUntraced(function* (
  engine: CommandEngine,
  statement: (page: Page<Key>) => CompiledQuery<Batch>,
  most: number,
  onBatch: (batch: Batch) => void,
) {
  let page: Page<Key> = { after: undefined, limit: Math.min(firstBatch, most) }
  while (true) {
    const { row, tookMs } = yield* Effect.retry(ask(engine, statement(page)), { while: isHeldUp, ...again })
    onBatch(row)
    if (row.last === null || row.looked < page.limit) return
    page = { after: row.last, limit: nextLimit(page.limit, tookMs, most) }
    yield* Effect.sleep(tookMs * pauses)
  }
})

/**
 * Deletes all that had ended so long ago, by the database's clock now, and returns how much that was. Each batch
 * is whole or not at all, so that it may be broken off at any time, and begun again.
 */
export const prune = Effect.fnUntraced(function* (
  engine: CommandEngine,
  { ageMs, dryRun, most }: Pruning,
  onProgress: (done: Pruned) => void,
): Effect.fn.Return<Pruned, DatabaseError> {
  const { row } = yield* ask(engine, cutoffStatement(ageMs))
  const bounds: Bounds = { cutoffMs: row.cutoff_ms, dryRun }
  let done: Pruned = { calls: 0, rooms: 0, atMs: undefined }
  const onBatch = ({ calls, last_ms, rooms }: Batch) => {
    done = { calls: done.calls + calls, rooms: done.rooms + rooms, atMs: last_ms ?? done.atMs }
    onProgress(done)
  }
  for (const statement of [pruneCallsStatement, pruneRoomsStatement])
    yield* goThrough(engine, (page) => statement(page, bounds), most, onBatch)
  return done
})
