// What a running service says of its readiness, at the URL that was given or on this machine.

import { Effect, Option, Schema } from "effect"
import type { SettingsShape } from "../config.ts"
import { webhookPath } from "../http/webhook-routes.ts"
import { ask } from "./asking.ts"

export type ServiceView =
  | { readonly kind: "ready"; readonly at: string; readonly tookMs: number }
  | { readonly kind: "not ready"; readonly at: string; readonly reasons: ReadonlyArray<string> }
  /** Somebody answers, but not with what `/readyz` answers: a proxy may let the webhook alone pass. */
  | { readonly kind: "unknown"; readonly at: string; readonly status: number }
  | { readonly kind: "no answer"; readonly at: string; readonly reason: string }

const Readiness = Schema.fromJsonString(
  Schema.Struct({ status: Schema.String, reasons: Schema.Array(Schema.String) }),
)
const decodeReadiness = Schema.decodeUnknownOption(Readiness)

/** Where `/readyz` is, beside the webhook or on this machine. */
const readyUrl = (settings: SettingsShape, webhook: URL | undefined): URL => {
  // Port 0 is any free one: nobody but the service knows which.
  if (webhook === undefined) return new URL(`http://127.0.0.1:${settings.port || 3000}/readyz`)
  const base = webhook.pathname.endsWith(webhookPath) ? webhook.pathname.slice(0, -webhookPath.length) : ""
  return new URL(`${base}/readyz`, webhook.origin)
}

// Beyond the time of a whole relay it does not matter any more.
const withinMs = 15_000

/** Asks once; never fails. */
export const lookAtService = (
  settings: SettingsShape,
  webhook: URL | undefined,
): Effect.Effect<ServiceView> => {
  const url = readyUrl(settings, webhook)
  const at = url.href
  return ask(url, { method: "GET", withinMs }).pipe(
    Effect.map(({ body, status, tookMs }): ServiceView => {
      const said = Option.getOrUndefined(decodeReadiness(body))
      if (said?.status === "ready") return { kind: "ready", at, tookMs }
      return said === undefined
        ? { kind: "unknown", at, status }
        : { kind: "not ready", at, reasons: said.reasons }
    }),
    Effect.catch(({ reason }) => Effect.succeed<ServiceView>({ kind: "no answer", at, reason })),
  )
}
