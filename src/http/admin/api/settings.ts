// The settings that are kept in the database.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, OpenApi } from "effect/http-api"
import { Time } from "./common.ts"

const Setting = Schema.Struct({
  key: Schema.String,
  value: Schema.Json.annotate({ description: "null where the setting was never made" }),
  updated_at: Schema.NullOr(Time),
}).annotate({ identifier: "Setting", description: "A setting" })

const Settings = Schema.Struct({ items: Schema.Array(Setting) }).annotate({
  identifier: "Settings",
  description: "All of them",
})

const params = { key: Schema.String }

export const SettingsGroup = HttpApiGroup.make("settings")
  .add(
    HttpApiEndpoint.get("list", "/settings", { success: Settings }).annotate(
      OpenApi.Summary,
      "Every setting",
    ),
    HttpApiEndpoint.get("get", "/settings/:key", { params, success: Setting }).annotate(
      OpenApi.Summary,
      "One setting",
    ),
    HttpApiEndpoint.put("put", "/settings/:key", {
      params,
      payload: Schema.Struct({ value: Schema.Json }).annotate({ identifier: "SettingValue" }),
      success: Setting,
    }).annotate(OpenApi.Summary, "Make a setting, in force in every replica within seconds"),
  )
  .annotateMerge(
    OpenApi.annotations({
      description:
        "core_fleet: a list of URLs or of {url, name?, capacity?, weight?, draining?}. drained_workers: a list of names.",
    }),
  )
