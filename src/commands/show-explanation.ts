// What Switchhook would decide about a webhook, on a terminal.

import { Console, Effect, Option, Schema } from "effect"
import { dryRunHeader } from "../http/webhook-routes.ts"
import { green, red, yellow } from "./colours.ts"
import { send, type Target } from "./sending.ts"

const Explained = Schema.Struct({ outcome: Schema.String, why: Schema.Array(Schema.String) })

const Ignored = Schema.Struct({ ignored: Schema.Struct({ stage: Schema.String, why: Schema.String }) })

const decodeExplained = Schema.decodeUnknownOption(Schema.fromJsonString(Explained))
const decodeIgnored = Schema.decodeUnknownOption(Schema.fromJsonString(Ignored))

const linesOf = ({ outcome, why }: typeof Explained.Type): ReadonlyArray<string> => [
  outcome === "would be handed over" ? green(outcome) : red(outcome),
  ...why.map((line) => `  ${line}`),
]

/** Asks the service what it would do with the webhook, and prints that; nothing is written or handed over. */
export const showDecision = Effect.fnUntraced(function* (target: Target, body: Uint8Array<ArrayBuffer>) {
  const { body: text, status } = yield* send(target, body, { [dryRunHeader]: "true" })
  const ignored = Option.getOrUndefined(decodeIgnored(text))?.ignored
  if (ignored !== undefined) {
    yield* Console.log(`${yellow("acknowledged")}: the ${ignored.stage} filter passes it by (${ignored.why})`)
    return
  }
  const explained = Option.getOrUndefined(decodeExplained(text))
  const lines = explained === undefined ? [red(`${status} ${text.slice(0, 2_000)}`)] : linesOf(explained)
  for (const line of lines) yield* Console.log(line)
})
