// Carriers with their DIDs.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import {
  type CarrierRow,
  type CarrierWritten,
  carrierStatement,
  carriersStatement,
  createCarrierStatement,
  deleteCarrierStatement,
  isOvertaken,
  patchCarrierStatement,
} from "../../carriers/carriers.ts"
import type { GivenNumber } from "../../routing/dids.ts"
import { AdminApi } from "./api/api.ts"
import { Conflict, NotFound } from "./api/problems.ts"
import { makeReading, pageFor, pageFrom } from "./shaping.ts"
import { makeStore } from "./store.ts"

const shown = (row: CarrierRow) => ({ ...row, did_count: Number(row.did_count) })

/** The first number of the list that another carrier has. */
const takenField = (dids: ReadonlyArray<GivenNumber>, { taken }: CarrierWritten) => {
  const place = dids.findIndex(({ e164 }) => taken.includes(e164))
  const detail = `dids[${place}]: another carrier has ${taken.join(", ")}`
  return Effect.fail(new Conflict({ field: `dids[${place}]`, detail }))
}

export const carriersHandlers = HttpApiBuilder.group(
  AdminApi,
  "carriers",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    const numbers = yield* makeReading
    const read = (id: string) => Effect.map(store.one("carrier", carrierStatement(id)), shown)
    const finish = (dids: ReadonlyArray<GivenNumber>, written: CarrierWritten | undefined) => {
      if (written !== undefined && written.taken.length > 0) return takenField(dids, written)
      return written === undefined || written.id === null
        ? Effect.fail(new NotFound({ detail: "No such carrier" }))
        : read(written.id)
    }
    return handlers.handleAll({
      list: ({ query }) =>
        Effect.map(store.many(carriersStatement(pageFor(query))), (rows) =>
          pageFrom(query, rows, (row) => [row.name, row.id] as const, shown),
        ),
      get: ({ params }) => read(params.id),
      create: Effect.fnUntraced(function* ({ payload }) {
        const dids = yield* numbers.list("dids", payload.dids ?? [])
        const trunkId = payload.lk_inbound_trunk_id ?? null
        const [written] = yield* store.write(createCarrierStatement(payload.name, trunkId, dids), isOvertaken)
        return yield* finish(dids, written)
      }),
      update: Effect.fnUntraced(function* ({ params, payload: { dids: raws, ...patch } }) {
        const dids = raws === undefined ? undefined : yield* numbers.list("dids", raws)
        const [written] = yield* store.write(
          patchCarrierStatement(params.id, dids === undefined ? patch : { ...patch, dids }),
          isOvertaken,
        )
        return yield* finish(dids ?? [], written)
      }),
      delete: ({ params }) => store.one("carrier", deleteCarrierStatement(params.id), isOvertaken),
    })
  }),
)
