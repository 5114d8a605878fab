// What a start says: where it listens, on which database, with which keys, and what to try next.

import { Effect, Layer, Option, Redacted } from "effect"
import { HttpServer } from "effect/http"
import { Settings } from "./config.ts"
import { Database } from "./database/database.ts"
import { webhookPath } from "./http/webhook-routes.ts"
import { runtime, version } from "./version.ts"
import { Keys } from "./webhook/keys.ts"

export const banner = Layer.effectDiscard(
  Effect.gen(function* () {
    const settings = yield* Settings
    const database = yield* Database
    const keys = yield* Keys
    const server = yield* HttpServer.HttpServer
    const port = "port" in server.address ? server.address.port : settings.port
    yield* Effect.logInfo("Listening", {
      host: settings.host,
      port,
      webhook: webhookPath,
      database: `${database.kind} (${database.place})`,
      keys: keys.names.join(", "),
      version,
      runtime,
    })
    if (settings.production) return
    if (settings.developmentDefaults) {
      yield* Effect.logWarning("Development secrets are in use; set NODE_ENV=production to be refused them")
    }
    if (settings.adminTokenMadeUp && Option.isSome(settings.adminToken)) {
      const token = Redacted.value(settings.adminToken.value)
      yield* Effect.logInfo(`Admin token of this start: ${token}`)
    }
    const url = `http://127.0.0.1:${port}`
    yield* Effect.logInfo(`Try next:  npm run ring -- --url ${url}`)
  }),
)
