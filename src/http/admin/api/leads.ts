// Callers who were new to a campaign.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, OpenApi } from "effect/http-api"
import { cursorOf, Id, IdInput, Limit, NumberInput, pageOf, Time, TimeKey } from "./common.ts"

export const Lead = Schema.Struct({
  id: Id,
  tenant_id: Schema.NullOr(Id),
  campaign_id: Id,
  number: Schema.String,
  raw_number: Schema.String,
  name: Schema.String,
  status: Schema.String,
  last_call_at: Schema.NullOr(Time),
  created_at: Time,
}).annotate({ identifier: "Lead", description: "A lead" })

const Cursor = cursorOf(TimeKey)

export const LeadsGroup = HttpApiGroup.make("leads")
  .add(
    HttpApiEndpoint.get("list", "/leads", {
      query: {
        limit: Limit,
        cursor: Schema.optionalKey(Cursor),
        campaign_id: Schema.optionalKey(IdInput),
        status: Schema.optionalKey(Schema.Literals(["calling", "completed", "missed", "failed"])),
        number: Schema.optionalKey(NumberInput),
      },
      success: pageOf("LeadPage", Lead, Cursor),
    }).annotate(OpenApi.Summary, "Leads, newest first"),
    HttpApiEndpoint.get("get", "/leads/:id", { params: { id: IdInput }, success: Lead }).annotate(
      OpenApi.Summary,
      "One lead",
    ),
  )
  .annotate(OpenApi.Description, "Callers who were new to a campaign; each follows its newest call.")
