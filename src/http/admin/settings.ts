// Settings: read and made, each by its own rule.

import { Effect } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { putSettingStatement, type SettingRow, settingsStatement } from "../../database/system-settings.ts"
import { fleetSettings } from "../../fleet/fleet-settings.ts"
import { AdminApi } from "./api/api.ts"
import { BadRequest, NotFound } from "./api/problems.ts"
import { makeStore } from "./store.ts"

const keys = Object.keys(fleetSettings)

const shown = (rows: ReadonlyArray<SettingRow>, key: string) => {
  const row = rows.find((found) => found.key === key)
  // What stands in the column is JSON.
  return { key, value: (row?.value ?? null) as null, updated_at: row?.updated_at ?? null }
}

const rulesOf = (key: string) =>
  Object.hasOwn(fleetSettings, key) && fleetSettings[key] !== undefined
    ? Effect.succeed(fleetSettings[key])
    : Effect.fail(new NotFound({ detail: `No such setting; there are ${keys.join(", ")}` }))

export const settingsHandlers = HttpApiBuilder.group(
  AdminApi,
  "settings",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* makeStore
    return handlers.handleAll({
      list: () =>
        Effect.map(store.many(settingsStatement(keys)), (rows) => ({
          items: keys.map((key) => shown(rows, key)),
        })),
      get: ({ params: { key } }) =>
        Effect.andThen(rulesOf(key), store.many(settingsStatement([key]))).pipe(
          Effect.map((rows) => shown(rows, key)),
        ),
      put: Effect.fnUntraced(function* ({ params: { key }, payload: { value } }) {
        const problems = (yield* rulesOf(key))(value)
        if (problems.length > 0)
          return yield* BadRequest.of(problems.map((message) => ({ path: "value", message })))
        const rows = yield* store.many(putSettingStatement(key, value))
        yield* Effect.logInfo("Setting changed", { setting: key })
        return shown(rows, key)
      }),
    })
  }),
)
