// Who may operate the service: whoever has the admin token.

import { createHash, timingSafeEqual } from "node:crypto"
import { Effect, Option, Redacted } from "effect"
import { HttpServerRequest } from "effect/http"
import { Settings, type SettingsShape } from "../config.ts"

const digest = (text: string) => createHash("sha256").update(text).digest()

/** Whether an `Authorization` header is `Bearer` and the admin token; compared in constant time. */
export const isAdminsToken = (authorization: string, adminToken: SettingsShape["adminToken"]): boolean => {
  const given = /^Bearer\s+(\S+)\s*$/i.exec(authorization)?.[1]
  if (given === undefined || Option.isNone(adminToken)) return false
  return timingSafeEqual(digest(given), digest(Redacted.value(adminToken.value)))
}

/** The same for the request at hand. */
export const isAdmin: Effect.Effect<boolean, never, Settings | HttpServerRequest.HttpServerRequest> =
  Effect.gen(function* () {
    const { adminToken } = yield* Settings
    const { headers } = yield* HttpServerRequest.HttpServerRequest
    return isAdminsToken(headers["authorization"] ?? "", adminToken)
  })
