// What an import asks of the database and writes there: one transaction in one session, so that what is written
// is exactly what was compared, or nothing.

import { Data, Effect, type Scope } from "effect"
import type { CommandEngine, MigrationSession } from "../../database/engine.ts"
import { DatabaseUnavailable, messageOf } from "../../database/errors.ts"
import { storableJson } from "../../database/schema.ts"
import type { NumberFile, Progress } from "./number-file.ts"
import type { Change, Known, KnownNumber, Plan, Wanted } from "./plan.ts"

/** The database did not take part; it is as it was before. */
export class ImportFailed extends Data.TaggedError("ImportFailed")<{ readonly message: string }> {}

/** The one transaction of an import. */
export interface ImportTransaction {
  /** What there is of the names, and of the numbers in the file. */
  readonly known: (file: NumberFile, progress: Progress) => Effect.Effect<Known, ImportFailed>
  /** Writes and commits. */
  readonly write: (plan: Plan, progress: Progress) => Effect.Effect<void, ImportFailed>
}

const rowsAtOnce = 5_000

// A session takes no parameters. In Base64 there is no quote and no backslash: whatever a file says stays data.
const literal = (value: unknown) =>
  `convert_from(decode('${Buffer.from(storableJson(value)).toString("base64")}', 'base64'), 'UTF8')::jsonb`

const lockTimedOut = "55P03"

const failed = (cause: unknown) => {
  const code = (cause as { readonly code?: unknown } | null)?.code
  const why =
    code === lockTimedOut
      ? "another import or change of the numbers is under way: try again when it is done"
      : messageOf(cause)
  return new ImportFailed({ message: `Nothing was written: ${why}` })
}

const attempt = <A>(run: () => Promise<A>) => Effect.tryPromise({ try: run, catch: failed })

/** Rows as JSON, because the session hands out one text a row. */
const rowsOf = <A>(session: MigrationSession, select: string) =>
  Effect.map(
    attempt(() => session.names(`SELECT to_json(r)::text AS name FROM (${select}) r`)),
    (texts) => texts.map((text) => JSON.parse(text) as A),
  )

const chunks = function* <A>(all: ReadonlyArray<A>): Generator<ReadonlyArray<A>> {
  for (let at = 0; at < all.length; at += rowsAtOnce) yield all.slice(at, at + rowsAtOnce)
}

const numbersIn = (numbers: ReadonlyArray<string>) => `
  SELECT d.number, c.name AS carrier, t.name AS tenant, m.name AS campaign, o.name AS campaign_tenant,
    d.target, d.type
  FROM jsonb_array_elements_text(${literal(numbers)}) AS wanted (number)
  JOIN dids d ON d.number = wanted.number
  LEFT JOIN carriers c ON c.id = d.carrier_id
  LEFT JOIN tenants t ON t.id = d.tenant_id
  LEFT JOIN campaigns m ON m.id = d.campaign_id
  LEFT JOIN tenants o ON o.id = m.tenant_id`

const readNumbers = Effect.fnUntraced(function* (
  session: MigrationSession,
  file: NumberFile,
  progress: Progress,
) {
  const wanted = [...new Set(file.numbers.map(({ number }) => number))]
  const found = new Map<string, KnownNumber>()
  let asked = 0
  for (const some of chunks(wanted)) {
    for (const row of yield* rowsOf<KnownNumber>(session, numbersIn(some))) found.set(row.number, row)
    asked += some.length
    progress(asked, wanted.length)
  }
  return found
})

const readKnown = Effect.fnUntraced(function* (
  session: MigrationSession,
  file: NumberFile,
  progress: Progress,
): Effect.fn.Return<Known, ImportFailed> {
  const names = (from: string) => rowsOf<{ readonly name: string }>(session, `SELECT name FROM ${from}`)
  const carriers = yield* names("carriers WHERE archived_at IS NULL")
  const archived = yield* names("carriers WHERE archived_at IS NOT NULL")
  const tenants = yield* names("tenants")
  const campaigns = yield* rowsOf<{ readonly tenant: string; readonly name: string }>(
    session,
    "SELECT t.name AS tenant, m.name FROM campaigns m JOIN tenants t ON t.id = m.tenant_id",
  )
  const byTenant = new Map<string, Set<string>>()
  for (const { name, tenant } of campaigns) {
    const set = byTenant.get(tenant) ?? new Set()
    byTenant.set(tenant, set.add(name))
  }
  return {
    carriers: new Set(carriers.map(({ name }) => name)),
    archivedCarriers: new Set(archived.map(({ name }) => name)),
    tenants: new Set(tenants.map(({ name }) => name)),
    campaigns: byTenant,
    numbers: yield* readNumbers(session, file, progress),
  }
})

// Everything is collected here first: the caches of the replicas follow statements on the tables, so the fewer
// of those there are, and the shorter, the better.
const collected = `
  CREATE TEMPORARY TABLE imported (
    line integer, number text, raw text, type text, carrier text, tenant text, campaign text, target text,
    -- Null for a new number.
    changed jsonb
  ) ON COMMIT DROP`

const collect = (rows: ReadonlyArray<object>) => `
  INSERT INTO imported
  SELECT * FROM jsonb_to_recordset(${literal(rows)}) AS r (line integer, number text, raw text, type text,
    carrier text, tenant text, campaign text, target text, changed jsonb)`

// The places after the carrier's last number, in the order of the file.
const resolved = (which: string) => `
  SELECT i.*, c.id AS carrier_id, t.id AS tenant_id, m.id AS campaign_id,
    CASE WHEN c.id IS NULL THEN 0
      ELSE coalesce(l.last, -1) + row_number() OVER (PARTITION BY c.id ORDER BY i.line) END AS place
  FROM imported i
  LEFT JOIN carriers c ON c.name = i.carrier
  LEFT JOIN tenants t ON t.name = i.tenant
  LEFT JOIN campaigns m ON m.tenant_id = t.id AND m.name = i.campaign
  LEFT JOIN (SELECT carrier_id, max(position) AS last FROM dids GROUP BY carrier_id) l ON l.carrier_id = c.id
  WHERE ${which}`

const changeNumbers = `
  UPDATE dids d SET
    carrier_id = CASE WHEN n.changed ? 'carrier' THEN n.carrier_id ELSE d.carrier_id END,
    position = CASE WHEN n.changed ? 'carrier' THEN n.place ELSE d.position END,
    tenant_id = CASE WHEN n.changed ? 'tenant' THEN n.tenant_id ELSE d.tenant_id END,
    campaign_id = CASE WHEN n.changed ? 'campaign' THEN n.campaign_id ELSE d.campaign_id END,
    target = CASE WHEN n.changed ? 'target' THEN n.target ELSE d.target END,
    type = CASE WHEN n.changed ? 'type' THEN n.type ELSE d.type END
  FROM (${resolved("i.changed IS NOT NULL")}) n
  WHERE d.number = n.number`

const addNumbers = `
  INSERT INTO dids (number, raw_number, type, carrier_id, position, tenant_id, campaign_id, target)
  SELECT number, raw, type, carrier_id, place, tenant_id, campaign_id, target
  FROM (${resolved("i.changed IS NULL")}) n`

const addNames = (table: "carriers" | "tenants", names: ReadonlyArray<string>) =>
  `INSERT INTO ${table} (name) SELECT * FROM jsonb_array_elements_text(${literal(names)})`

const addCampaigns = (campaigns: Plan["create"]["campaigns"]) => `
  INSERT INTO campaigns (tenant_id, name)
  SELECT t.id, r.name FROM jsonb_to_recordset(${literal(campaigns)}) AS r (tenant text, name text)
  JOIN tenants t ON t.name = r.tenant`

const statementsOf = ({ add, change, create }: Plan): ReadonlyArray<string> => [
  ...(create.carriers.length > 0 ? [addNames("carriers", create.carriers)] : []),
  ...(create.tenants.length > 0 ? [addNames("tenants", create.tenants)] : []),
  ...(create.campaigns.length > 0 ? [addCampaigns(create.campaigns)] : []),
  ...(change.length > 0 ? [changeNumbers] : []),
  ...(add.length > 0 ? [addNumbers] : []),
]

const rowOf = (wanted: Wanted | Change) => ({
  ...wanted,
  changes: undefined,
  changed: "changes" in wanted ? wanted.changes.map(({ field }) => field) : undefined,
})

const writePlan = Effect.fnUntraced(function* (session: MigrationSession, plan: Plan, progress: Progress) {
  const statements = statementsOf(plan)
  // Nothing to do must not make every replica read its caches again.
  if (statements.length === 0) return
  const rows: ReadonlyArray<Wanted | Change> = [...plan.change, ...plan.add]
  yield* attempt(() => session.script(collected))
  let done = 0
  for (const some of chunks(rows)) {
    yield* attempt(() => session.script(collect(some.map(rowOf))))
    done += some.length
    // The second half is the writing itself, of which nothing is heard until it is over.
    progress(done, 2 * rows.length)
  }
  yield* attempt(() => session.script("ANALYZE imported"))
  for (const statement of statements) yield* attempt(() => session.script(statement))
  progress(1, 1)
})

// Nobody else changes the numbers between comparing and writing; reading them, and calls, go on. In this order
// wherever they are locked, or two imports could wait for each other.
const lockAll = `
  SET LOCAL lock_timeout = '10s';
  LOCK TABLE tenants, campaigns, carriers, dids IN SHARE ROW EXCLUSIVE MODE`

const commit = (session: MigrationSession) =>
  Effect.tryPromise({
    try: () => session.script("COMMIT"),
    catch: (cause) =>
      new ImportFailed({
        message: `The database did not confirm: ${messageOf(cause)}. All or nothing was written: run the same again, and what is there already is skipped.`,
      }),
  })

// The newest of the columns that are used here.
const newest = `
  SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('carriers') AND attname = 'archived_at'
  ) AS there`

const isUpToDate = (session: MigrationSession) =>
  Effect.map(rowsOf<{ readonly there: boolean }>(session, newest), ([row]) => row?.there === true)

/** Begins the transaction; one that does not `apply` can write nothing. Its scope ends it. */
export const beginImport = Effect.fnUntraced(function* (
  engine: CommandEngine,
  apply: boolean,
): Effect.fn.Return<ImportTransaction, ImportFailed, Scope.Scope> {
  const session = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: () => engine.migrationSession(),
      catch: (cause) => new ImportFailed({ message: new DatabaseUnavailable({ cause }).message }),
    }),
    (open) => Effect.promise(() => open.close().catch(() => {})),
  )
  if (!(yield* isUpToDate(session))) {
    const message = `The ${engine.kind} database ${engine.place} is not up to date: run npm run migrate first.`
    return yield* new ImportFailed({ message })
  }
  yield* Effect.acquireRelease(
    attempt(() => session.script(apply ? "BEGIN" : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")),
    // After a commit there is nothing left to undo, and PostgreSQL says so in a warning only.
    () => Effect.promise(() => session.script("ROLLBACK").catch(() => {})),
  )
  if (apply) yield* attempt(() => session.script(lockAll))
  return {
    known: (file, progress) => readKnown(session, file, progress),
    write: (plan, progress) => Effect.andThen(writePlan(session, plan, progress), commit(session)),
  }
})
