// The database as the handlers see it: rows, or a problem to tell.

import { Effect } from "effect"
import type { CompiledQuery } from "kysely"
import { Database } from "../../database/database.ts"
import type { DatabaseError, QueryRefused } from "../../database/errors.ts"
import { BadRequest, Conflict, NotFound, Unavailable } from "./api/problems.ts"

/** The field that a unique constraint is about. */
const taken: Readonly<Record<string, string>> = {
  tenants_name_key: "name",
  campaigns_tenant_id_name_key: "name",
  carriers_name_key: "name",
  carriers_lk_inbound_trunk_id_key: "lk_inbound_trunk_id",
  dids_number_key: "number",
}

/** Of each reference: the field that has it, and the list that is full of them. */
const references: Readonly<Record<string, { readonly field: string; readonly list: string }>> = {
  campaigns_tenant_id_fkey: { field: "tenant_id", list: "campaigns" },
  dids_carrier_id_fkey: { field: "carrier_id", list: "dids" },
  dids_tenant_id_fkey: { field: "tenant_id", list: "dids" },
  dids_campaign_id_fkey: { field: "campaign_id", list: "dids" },
  leads_tenant_id_fkey: { field: "tenant_id", list: "leads" },
  leads_campaign_id_fkey: { field: "campaign_id", list: "leads" },
}

const unavailable = new Unavailable({ detail: "Database unavailable" })

type Telling<P> = (error: QueryRefused) => P | undefined

const duplicateOrDangling: Telling<Conflict | BadRequest> = ({ code, constraint = "" }) => {
  const field = code === "23505" ? taken[constraint] : undefined
  if (field !== undefined) return new Conflict({ field, detail: `${field}: something else has it already` })
  const reference = code === "23503" ? references[constraint] : undefined
  return reference && BadRequest.at(reference.field, "there is nothing with this id")
}
const stillUsed: Telling<Conflict> = ({ code, constraint = "" }) => {
  const list = code === "23503" ? references[constraint]?.list : undefined
  return list === undefined
    ? undefined
    : new Conflict({ field: list, detail: `${list}: there are some that refer to it` })
}
const noTelling: Telling<never> = () => undefined

/** What a database error is to an operator; a query that it refuses for no reason of theirs is a bug. */
const telling =
  <P>(tell: Telling<P>, reached: () => boolean) =>
  (error: DatabaseError): Effect.Effect<never, P | Unavailable> => {
    if (error._tag === "DatabaseUnavailable" || !reached()) return Effect.fail(unavailable)
    const told = tell(error)
    return told === undefined ? Effect.die(error) : Effect.fail(told)
  }

/** Whether a statement that was refused is to be run once more. */
type Again = (error: DatabaseError) => boolean

/** Runs statements; every way of it says no in its own way. */
export const makeStore = Effect.gen(function* () {
  const { reached, run } = yield* Database
  const runAgain = <A>(statement: CompiledQuery<A>, again: Again = () => false) =>
    Effect.retry(run(statement), { times: 5, while: again })
  const many = <A>(statement: CompiledQuery<A>, again?: Again) =>
    Effect.catch(runAgain(statement, again), telling(noTelling, reached))
  const orMissing =
    (what: string) =>
    <A>(rows: ReadonlyArray<A>): Effect.Effect<A, NotFound> =>
      rows[0] === undefined
        ? Effect.fail(new NotFound({ detail: `No such ${what}` }))
        : Effect.succeed(rows[0])

  return {
    /** All rows. */
    many,
    /** The first row; not found where there is none. */
    one: <A>(what: string, statement: CompiledQuery<A>, again?: Again) =>
      Effect.flatMap(many(statement, again), orMissing(what)),
    /** The rows of what was written; a conflict where something else has a value, bad where nothing has an id. */
    write: <A>(statement: CompiledQuery<A>, again?: Again) =>
      Effect.catch(runAgain(statement, again), telling(duplicateOrDangling, reached)),
    /** What was deleted; a conflict where something refers to it. */
    remove: <A>(what: string, statement: CompiledQuery<A>) =>
      Effect.flatMap(Effect.catch(run(statement), telling(stillUsed, reached)), orMissing(what)),
    orMissing,
  }
})
