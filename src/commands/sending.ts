// Sends a webhook to a running Switchhook, or shows what would be sent.

import { Console, Effect, Option, Redacted } from "effect"
import type { SettingsShape } from "../config.ts"
import { webhookPath } from "../http/webhook-routes.ts"
import { bold, dim } from "./colours.ts"
import { CommandFailed } from "./run-command.ts"
import { type Answered, post, signBody, webhookHeaders } from "./signing.ts"

/** Where webhooks go, and the key they are signed with. */
export interface Target {
  readonly webhook: string
  readonly key: string
  readonly secret: Redacted.Redacted
}

/**
 * The target at `url`, by default this machine and the port of the settings; a URL without a path gets the
 * webhook's. Fails where it is no http(s) URL.
 */
export const targetOf = Effect.fnUntraced(function* (
  given: Option.Option<string>,
  settings: SettingsShape,
): Effect.fn.Return<Target, CommandFailed> {
  // Port 0 is any free one: nobody but the service knows which.
  const raw = Option.getOrElse(given, () => `http://127.0.0.1:${settings.port || 3000}`)
  const url = URL.canParse(raw) ? new URL(raw) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    const message = `--url: expected an address like http://127.0.0.1:3000, got ${JSON.stringify(raw)}`
    return yield* new CommandFailed({ message })
  }
  if (url.pathname === "/") url.pathname = webhookPath
  const { key, secret } = settings.apiKeys[0]!
  return { webhook: url.href, key, secret }
})

const sign = ({ key, secret }: Target, body: Uint8Array) =>
  Effect.promise(() => signBody(body, key, Redacted.value(secret)))

const reasonOf = (error: unknown): string => {
  const cause = error instanceof Error ? error.cause : undefined
  if (cause instanceof AggregateError) return cause.errors.map((one) => String(one?.message)).join(", ")
  return cause instanceof Error ? cause.message : String(error)
}

const unreachable = (target: Target, why: string) =>
  new CommandFailed({
    message: [
      `Nobody answers at ${target.webhook}: ${why}.`,
      "Is Switchhook running there? npm start starts it; --url is where to look for it.",
    ].join("\n"),
  })

// Longer than the service may take: 10 s for a relay, and some for its database.
const patience = "20 seconds"

/** Signs and posts a body, with `more` headers; fails where nobody answers. */
export const send = Effect.fnUntraced(function* (
  target: Target,
  body: Uint8Array<ArrayBuffer>,
  more: Readonly<Record<string, string>> = {},
): Effect.fn.Return<Answered, CommandFailed> {
  const token = yield* sign(target, body)
  return yield* Effect.tryPromise({
    try: (signal) => post(target.webhook, body, token, signal, more),
    catch: (error) => unreachable(target, reasonOf(error)),
  }).pipe(
    Effect.timeoutOrElse({
      duration: patience,
      orElse: () => Effect.fail(unreachable(target, `nothing came back within ${patience}`)),
    }),
  )
})

const withoutPasswords = (name: string, value: unknown) => (name === "turnPassword" ? "…" : value)

const indented = (body: Uint8Array) => {
  const text = new TextDecoder().decode(body)
  try {
    return JSON.stringify(JSON.parse(text), withoutPasswords, 2)
  } catch {
    return text
  }
}

/** Prints the request that `send` would make, and sends nothing. */
export const showUnsent = Effect.fnUntraced(function* (target: Target, body: Uint8Array<ArrayBuffer>) {
  const token = yield* sign(target, body)
  const abbreviated = `${token.slice(0, 12)}… (${token.length} characters, signed with the key ${target.key})`
  yield* Console.log(bold(`POST ${target.webhook}`))
  for (const [name, value] of Object.entries(webhookHeaders(abbreviated))) {
    yield* Console.log(`${dim(`${name}:`)} ${value}`)
  }
  yield* Console.log(`${dim("Content-Length:")} ${body.length} (as sent, without this indentation)`)
  yield* Console.log(`\n${indented(body)}\n`)
})
