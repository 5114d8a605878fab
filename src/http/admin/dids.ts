// DIDs: whose they are, and who answers them.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { isRowId } from "../../calls/call-details.ts"
import {
  createDidStatement,
  deleteDidStatement,
  didNumberedStatement,
  didStatement,
  didsStatement,
  patchDidStatement,
} from "../../routing/dids.ts"
import { AdminApi } from "./api/api.ts"
import { BadRequest } from "./api/problems.ts"
import { makeReading, pageFor, pageFrom } from "./shaping.ts"
import { makeStore } from "./store.ts"

const ofAnotherTenant = BadRequest.at("campaign_id", "is not a campaign of this tenant")

export const didsHandlers = HttpApiBuilder.group(
  AdminApi,
  "dids",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    const numbers = yield* makeReading
    const idOf = (text: string) =>
      isRowId(text)
        ? Effect.succeed(text)
        : Effect.map(store.one("DID", didNumberedStatement(numbers.read(text)?.e164 ?? text)), ({ id }) => id)
    return handlers.handleAll({
      list: Effect.fnUntraced(function* ({ query }) {
        const { number, ...filter } = query
        const given = yield* numbers.optional("number", number)
        const { after, limit } = pageFor(query)
        const rows = yield* store.many(
          didsStatement(
            { after: after?.[0], limit },
            given === undefined ? filter : { ...filter, number: given.e164 },
          ),
        )
        return pageFrom(
          query,
          rows,
          (row) => [row.number] as const,
          (row) => row,
        )
      }),
      get: ({ params }) => Effect.flatMap(idOf(params.id), (id) => store.one("DID", didStatement(id))),
      create: Effect.fnUntraced(function* ({ payload: { number, ...owners } }) {
        const given = yield* numbers.one("number", number)
        const [made] = yield* store.write(createDidStatement(given, owners))
        return made ?? (yield* ofAnotherTenant)
      }),
      update: Effect.fnUntraced(function* ({ params, payload: { number, ...owners } }) {
        const id = yield* idOf(params.id)
        const given = yield* numbers.optional("number", number)
        const [changed] = yield* store.write(patchDidStatement(id, given, owners))
        if (changed !== undefined) return changed
        yield* store.one("DID", didStatement(id))
        return yield* ofAnotherTenant
      }),
      delete: ({ params }) =>
        idOf(params.id).pipe(
          Effect.flatMap((id) => store.many(deleteDidStatement(id))),
          Effect.flatMap(store.orMissing("DID")),
        ),
    })
  }),
)
