// The settings that are kept in the database.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, OpenApi } from "effect/http-api"
import { Time } from "./common.ts"

const Setting = Schema.Struct({
  key: Schema.String,
  value: Schema.Json.annotate({ description: "null where the setting was never made" }),
  updated_at: Schema.NullOr(Time),
})

const params = { key: Schema.String }

export const SettingsGroup = HttpApiGroup.make("settings")
  .add(
    HttpApiEndpoint.get("list", "/settings", { success: Schema.Struct({ items: Schema.Array(Setting) }) }),
    HttpApiEndpoint.get("get", "/settings/:key", { params, success: Setting }),
    HttpApiEndpoint.put("put", "/settings/:key", {
      params,
      payload: Schema.Struct({ value: Schema.Json }),
      success: Setting,
    }),
  )
  .annotateMerge(
    OpenApi.annotations({
      description:
        "core_fleet: a list of URLs or of {url, name?, capacity?, weight?, draining?}. drained_workers: a list of names.",
    }),
  )
