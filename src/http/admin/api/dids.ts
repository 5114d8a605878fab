// The phone numbers of ours.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema, OpenApi } from "effect/http-api"
import { numberTypes } from "../../../routing/number-type.ts"
import { cursorOf, Deleted, Id, IdInput, Limit, NumberInput, pageOf, Target, Term, Time } from "./common.ts"
import { Conflict } from "./problems.ts"

const Did = Schema.Struct({
  id: Id,
  number: Schema.String.annotate({ description: "E.164" }),
  raw_number: Schema.String.annotate({ description: "As it was given" }),
  type: Schema.NullOr(Schema.Literals(numberTypes)).annotate({
    description: "What kind of number it is, where its numbering plan or an imported file says so",
  }),
  carrier_id: Schema.NullOr(Id),
  position: Schema.Finite.annotate({ description: "Its place among those of its carrier, from 0" }),
  tenant_id: Schema.NullOr(Id),
  campaign_id: Schema.NullOr(Id),
  target: Schema.NullOr(Target),
  created_at: Time,
}).annotate({ identifier: "Did", description: "A phone number of ours" })

const Cursor = cursorOf(Schema.Tuple([Schema.String.check(Schema.isPattern(/^\+[0-9]{2,15}$/))]))
const params = { id: Term.annotate({ description: "The DID's id, or its number in any form" }) }
const optionalId = Schema.optionalKey(Schema.NullOr(IdInput))
const fields = {
  carrier_id: optionalId,
  tenant_id: optionalId,
  campaign_id: optionalId,
  target: Schema.optionalKey(Schema.NullOr(Target)),
}

export const DidsGroup = HttpApiGroup.make("dids")
  .add(
    HttpApiEndpoint.get("list", "/dids", {
      query: {
        limit: Limit,
        cursor: Schema.optionalKey(Cursor),
        number: Schema.optionalKey(NumberInput),
        carrier_id: Schema.optionalKey(IdInput),
        tenant_id: Schema.optionalKey(IdInput),
        campaign_id: Schema.optionalKey(IdInput),
      },
      success: pageOf("DidPage", Did, Cursor),
    }).annotate(OpenApi.Summary, "DIDs by number"),
    HttpApiEndpoint.get("get", "/dids/:id", { params, success: Did }).annotate(OpenApi.Summary, "One DID"),
    HttpApiEndpoint.post("create", "/dids", {
      payload: Schema.Struct({ number: NumberInput, ...fields }).annotate({ identifier: "NewDid" }),
      success: Did.pipe(HttpApiSchema.status(201)),
      error: Conflict,
    }).annotate(OpenApi.Summary, "Make a DID"),
    HttpApiEndpoint.patch("update", "/dids/:id", {
      params,
      payload: Schema.Struct({ number: Schema.optionalKey(NumberInput), ...fields }).annotate({
        identifier: "DidPatch",
      }),
      success: Did,
      error: Conflict,
    }).annotate(OpenApi.Summary, "Change a DID: whose it is, and who answers it"),
    HttpApiEndpoint.delete("delete", "/dids/:id", { params, success: Deleted }).annotate(
      OpenApi.Summary,
      "Delete a DID",
    ),
  )
  .annotate(OpenApi.Description, "The phone numbers that are dialed: whose each is, and who answers it.")
