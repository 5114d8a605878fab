// The settings: whether they can be read, and those that work but should not stay so.

import { Option, Redacted } from "effect"
import type { BadSettings, SettingsShape } from "../config.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Settings")

/** Settings with which nothing can start: a finding for each that is wrong. */
export const badSettings = ({ lines }: BadSettings): ReadonlyArray<Finding> =>
  lines.map((line) =>
    error(line, {
      why: "The service does not start with it, and no call is answered.",
      fix: `Set ${line.slice(0, line.indexOf(":"))} in the environment, env.local or .env; the README has a table.`,
    }),
  )

// HS256 wants as many bytes as its hash has; LiveKit itself warns of less.
const shortestSecret = 32

const openDoors = (settings: SettingsShape): ReadonlyArray<Finding> => {
  const found: Array<Finding> = []
  if (settings.developmentDefaults) {
    found.push(
      warning("A secret of the documentation is in use (LIVEKIT_API_SECRET or CXB_CORE_SECRET is not set)", {
        why: "Anybody can sign webhooks with it, or give your workers calls.",
        fix: "Set LIVEKIT_API_KEY, LIVEKIT_API_SECRET and CXB_CORE_SECRET.",
      }),
    )
  }
  if (
    settings.production &&
    settings.apiKeys.some(({ secret }) => Redacted.value(secret).length < shortestSecret)
  ) {
    found.push(
      warning(`A LiveKit secret has less than ${shortestSecret} characters`, {
        why: "Whoever has seen one signed webhook can guess a short secret, and then sign calls.",
        fix: "Make a new key in LiveKit, and set LIVEKIT_API_KEY and LIVEKIT_API_SECRET (LIVEKIT_KEYS keeps the old one meanwhile).",
      }),
    )
  }
  if (settings.sipInboundUnsigned) {
    found.push(
      warning("SIP_INBOUND_UNSIGNED is true", {
        why: "Anybody who reaches the sip-inbound URL can claim calls, and they are then not dispatched.",
        fix: "Let the sender sign with WEBHOOK_SECRET and unset SIP_INBOUND_UNSIGNED, or limit ALLOWED_SOURCES.",
      }),
    )
  }
  return found
}

const forProduction = (settings: SettingsShape): ReadonlyArray<Finding> => {
  if (!settings.production) {
    return [
      warning("NODE_ENV is not production", {
        why: "Development defaults are let pass, and the log is written for a terminal.",
        fix: "Set NODE_ENV=production where real calls come in.",
      }),
    ]
  }
  if (Option.isSome(settings.adminToken)) return []
  return [
    warning("ADMIN_TOKEN is not set", {
      why: "The admin API and the test endpoint answer 404: no draining, and no call can be looked up.",
      fix: "Set ADMIN_TOKEN to 16 random characters or more (openssl rand -hex 24).",
    }),
  ]
}

const forAgents = ({ database, settings }: World): ReadonlyArray<Finding> => {
  if (Option.isSome(settings.livekitUrl) || database.kind !== "open") return []
  const count = database.stored.dids.filter(({ target }) => target === "agent").length
  if (count === 0) return []
  return [
    error(`${count} of the DIDs are answered by an agent, and LIVEKIT_URL is not set`, {
      why: "Agents are dispatched through LiveKit's API: calls to these numbers get 503.",
      fix: "Set LIVEKIT_URL to your project's wss:// URL.",
    }),
  ]
}

export const checkSettings = (world: World): ReadonlyArray<Finding> => {
  const problems = [...forProduction(world.settings), ...openDoors(world.settings), ...forAgents(world)]
  return problems.length > 0 ? problems : [ok("They can be read, and are fit for production")]
}
