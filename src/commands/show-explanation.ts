// What Switchhook would decide about a webhook, in the words of somebody who reads a terminal.

import { Console, Effect, Option, Schema } from "effect"
import { dryRunHeader } from "../http/webhook-routes.ts"
import { dim, green, red, yellow } from "./colours.ts"
import { send, type Target } from "./sending.ts"

const Considered = Schema.Struct({
  worker: Schema.String,
  verdict: Schema.String,
  why: Schema.optionalKey(Schema.String),
  load: Schema.Finite,
})

const Explained = Schema.Struct({
  outcome: Schema.String,
  explanation: Schema.Struct({
    dialed_from: Schema.NullOr(Schema.String),
    trunk: Schema.NullOr(Schema.String),
    route: Schema.Struct({
      number: Schema.NullOr(Schema.String),
      did: Schema.NullOr(Schema.String),
      target: Schema.String,
      agent: Schema.String,
      agent_from: Schema.String,
      error: Schema.NullOr(Schema.String),
    }),
    considered: Schema.Array(Considered),
    took_ms: Schema.Struct({ route: Schema.NullOr(Schema.Finite), select: Schema.Finite }),
  }),
})

const Ignored = Schema.Struct({ ignored: Schema.Struct({ stage: Schema.String, why: Schema.String }) })

const decodeExplained = Schema.decodeUnknownOption(Schema.fromJsonString(Explained))
const decodeIgnored = Schema.decodeUnknownOption(Schema.fromJsonString(Ignored))

const linesOf = ({ explanation, outcome }: typeof Explained.Type): ReadonlyArray<string> => {
  const { considered, dialed_from, route, took_ms, trunk } = explanation
  const found = route.did === null ? (route.error ?? "no number was dialed") : `DID ${route.did}`
  const who =
    route.target === "agent" ? `the agent ${route.agent}, the ${route.agent_from}'s` : "a worker of the fleet"
  return [
    outcome === "would be handed over" ? green(outcome) : red(outcome),
    `  dialed   ${route.number ?? "(no number)"} from ${dialed_from ?? "nowhere"}, trunk ${trunk ?? "(none)"}`,
    `  number   ${found}: answered by ${who}`,
    ...considered.map(({ load, verdict, why, worker }) => {
      const reason = why === undefined ? "" : ` (${why})`
      return `  worker   ${worker}: ${verdict}${reason}, load ${Math.round(load * 100)} %`
    }),
    dim(`  took     ${took_ms.route ?? 0} ms to route, ${took_ms.select} ms to select`),
  ]
}

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
