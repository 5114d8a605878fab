// Leads, to look at.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { type LeadRow, leadStatement, leadsStatement } from "../../calls/leads.ts"
import { AdminApi } from "./api/api.ts"
import { makeReading, pageFor, pageFrom } from "./shaping.ts"
import { makeStore } from "./store.ts"

/** Without what only a cursor needs. */
export const shownLead = ({ created_micros: _, ...lead }: LeadRow) => lead

export const leadsHandlers = HttpApiBuilder.group(
  AdminApi,
  "leads",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    const numbers = yield* makeReading
    return handlers.handleAll({
      list: Effect.fnUntraced(function* ({ query }) {
        const { number, ...filter } = query
        const given = yield* numbers.optional("number", number)
        const rows = yield* store.many(
          leadsStatement(pageFor(query), given === undefined ? filter : { ...filter, number: given.e164 }),
        )
        return pageFrom(query, rows, (row) => [row.created_micros, row.id] as const, shownLead)
      }),
      get: ({ params }) => Effect.map(store.one("lead", leadStatement(params.id)), shownLead),
    })
  }),
)
