// Carriers with their DIDs.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema, OpenApi } from "effect/http-api"
import { cursorOf, Id, IdInput, Limit, Name, NameKey, NumberInput, pageOf, Target, Time } from "./common.ts"
import { Conflict } from "./problems.ts"

const CarrierDid = Schema.Struct({
  id: Id,
  number: Schema.String,
  position: Schema.Finite,
  tenant_id: Schema.NullOr(Id),
  campaign_id: Schema.NullOr(Id),
  target: Schema.NullOr(Target),
}).annotate({ identifier: "CarrierDid" })

const Carrier = Schema.Struct({
  id: Id,
  name: Schema.String,
  lk_inbound_trunk_id: Schema.NullOr(Schema.String),
  lk_dispatch_rule_id: Schema.NullOr(Schema.String),
  created_at: Time,
  archived_at: Schema.NullOr(Time).annotate({
    description: "Deleted while there are calls of it: its trunk's hidden numbers get no DID any more",
  }),
  did_count: Schema.Finite,
  dids: Schema.Array(CarrierDid).annotate({
    description: "In order, the first 1,000 of them; the others by GET /dids?carrier_id=",
  }),
}).annotate({ identifier: "Carrier", description: "A carrier with its DIDs" })

const Cursor = cursorOf(NameKey)
const params = { id: IdInput }
const Dids = Schema.Array(NumberInput).annotate({
  description: "In order: the first one stands in for a dialed number that LiveKit hides",
})

export const CarriersGroup = HttpApiGroup.make("carriers")
  .add(
    HttpApiEndpoint.get("list", "/carriers", {
      query: { limit: Limit, cursor: Schema.optionalKey(Cursor) },
      success: pageOf("CarrierPage", Carrier, Cursor),
    }).annotate(OpenApi.Summary, "Carriers by name"),
    HttpApiEndpoint.get("get", "/carriers/:id", { params, success: Carrier }).annotate(
      OpenApi.Summary,
      "One carrier",
    ),
    HttpApiEndpoint.post("create", "/carriers", {
      payload: Schema.Struct({
        name: Name,
        lk_inbound_trunk_id: Schema.optionalKey(Schema.NullOr(Name)),
        dids: Schema.optionalKey(Dids),
      }).annotate({ identifier: "NewCarrier" }),
      success: Carrier.pipe(HttpApiSchema.status(201)),
      error: Conflict,
    }).annotate(OpenApi.Summary, "Make a carrier, with its DIDs"),
    HttpApiEndpoint.patch("update", "/carriers/:id", {
      params,
      payload: Schema.Struct({
        name: Schema.optionalKey(Name),
        lk_inbound_trunk_id: Schema.optionalKey(Schema.NullOr(Name)),
        dids: Schema.optionalKey(Dids.annotate({ description: "The whole new list; others are let go" })),
        archived: Schema.optionalKey(Schema.Boolean),
      }).annotate({ identifier: "CarrierPatch" }),
      success: Carrier,
      error: Conflict,
    }).annotate(OpenApi.Summary, "Change a carrier, or its list of DIDs"),
    HttpApiEndpoint.delete("delete", "/carriers/:id", {
      params,
      success: Schema.Struct({
        id: Id,
        archived: Schema.Boolean.annotate({ description: "There are calls of it: kept, without serving" }),
      }).annotate({ identifier: "DeletedCarrier", description: "It is gone, or archived" }),
    }).annotate(OpenApi.Summary, "Delete a carrier and let its DIDs go"),
  )
  .annotateMerge(
    OpenApi.annotations({ description: "Who delivers the DIDs; each owns one LiveKit inbound trunk." }),
  )
