// The phone numbers of ours.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { cursorOf, Id, IdInput, Limit, NumberInput, pageOf, Target, Time } from "./common.ts"
import { Conflict } from "./problems.ts"

const Did = Schema.Struct({
  id: Id,
  number: Schema.String,
  raw_number: Schema.String,
  type: Schema.NullOr(Schema.String),
  carrier_id: Schema.NullOr(Id),
  position: Schema.Finite,
  tenant_id: Schema.NullOr(Id),
  campaign_id: Schema.NullOr(Id),
  target: Schema.NullOr(Target),
  created_at: Time,
})

const Cursor = cursorOf(Schema.Tuple([Schema.String.check(Schema.isPattern(/^\+[0-9]{2,15}$/))]))
const params = { id: IdInput }
const optionalId = Schema.optionalKey(Schema.NullOr(IdInput))
const fields = {
  carrier_id: optionalId,
  tenant_id: optionalId,
  campaign_id: optionalId,
  target: Schema.optionalKey(Schema.NullOr(Target)),
}

export const DidsGroup = HttpApiGroup.make("dids").add(
  HttpApiEndpoint.get("list", "/dids", {
    query: {
      limit: Limit,
      cursor: Schema.optionalKey(Cursor),
      number: Schema.optionalKey(NumberInput),
      carrier_id: Schema.optionalKey(IdInput),
      tenant_id: Schema.optionalKey(IdInput),
      campaign_id: Schema.optionalKey(IdInput),
    },
    success: pageOf(Did, Cursor),
  }),
  HttpApiEndpoint.get("get", "/dids/:id", { params, success: Did }),
  HttpApiEndpoint.post("create", "/dids", {
    payload: Schema.Struct({ number: NumberInput, ...fields }),
    success: Did.pipe(HttpApiSchema.status(201)),
    error: Conflict,
  }),
  HttpApiEndpoint.patch("update", "/dids/:id", {
    params,
    payload: Schema.Struct({ number: Schema.optionalKey(NumberInput), ...fields }),
    success: Did,
    error: Conflict,
  }),
  HttpApiEndpoint.delete("delete", "/dids/:id", { params, success: Schema.Struct({ id: Id }) }),
)
