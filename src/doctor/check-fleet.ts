// The workers of core_fleet: which there are, whether each is healthy, and whether its dispatch URL is there.

import { Effect, Layer, Option, Result } from "effect"
import { Settings, type SettingsShape } from "../config.ts"
import { drainedBy, parseDrained, parseRoster, type RosterEntry } from "../fleet/roster.ts"
import type { HealthReport } from "../fleet/worker.ts"
import { WorkerClient } from "../fleet/worker-client.ts"
import { ask, isRedirect, type Reply } from "./asking.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import { storedOf } from "./look-at-database.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Fleet")

const setting = "PUT /api/v1/admin/settings/core_fleet, or the row core_fleet of system_settings"

// ---- Which workers there are

/** As the service reads it: the database's goes before the environment's, which only seeds it. */
const rosterOf = ({ database, settings }: World) => {
  const stored = storedOf(database)
  const value = stored?.coreFleet ?? Option.getOrUndefined(settings.coreFleet)
  const { entries, problems } = parseRoster(value)
  return { entries: drainedBy(entries, parseDrained(stored?.drainedWorkers)), problems }
}

const unused = ({ database, settings }: World): ReadonlyArray<Finding> => {
  const stored = storedOf(database)?.coreFleet
  if (stored === undefined || Option.isNone(settings.coreFleet)) return []
  const urls = (value: unknown) =>
    parseRoster(value)
      .entries.map(({ url }) => url)
      .join()
  if (urls(stored) === urls(settings.coreFleet.value)) return []
  return [
    warning("CORE_FLEET names other workers than the setting core_fleet of the database", {
      why: "CORE_FLEET only seeds the setting: what it names now is not used.",
      fix: `Change the setting (${setting}), or unset CORE_FLEET.`,
    }),
  ]
}

const nobody = (entries: ReadonlyArray<RosterEntry>, settings: SettingsShape): ReadonlyArray<Finding> => {
  if (entries.some(({ draining }) => !draining)) return []
  const what = entries.length === 0 ? "There is no worker (core_fleet is empty)" : "Every worker is draining"
  const fix =
    entries.length === 0
      ? `Name your workers: ${setting}; CORE_FLEET seeds it where it was never made.`
      : "Take one back: POST /api/v1/admin/workers/{name}/undrain, or `draining` in core_fleet."
  if (Option.isSome(settings.fallbackAgent))
    return [warning(what, { why: "Every call goes to FALLBACK_AGENT.", fix })]
  if (settings.inboundTarget === "agent" && entries.length === 0)
    return [ok("There are no workers; agents answer (INBOUND_TARGET)")]
  return [error(what, { why: "Calls for the fleet get a 503, and nobody answers.", fix })]
}

// ---- Each of them

// Nobody counts on a worker that is draining.
const failing = (entry: RosterEntry) => (entry.draining ? warning : error)

const unhealthy = (entry: RosterEntry, why: string): Finding => {
  const url = `${entry.url}/health`
  const failure = why.startsWith("answers") ? why : `failed (${why})`
  return failing(entry)(`${entry.name}: GET ${url} ${failure}`, {
    why: "A worker without a health answer of 2xx within 500 ms gets no call.",
    fix: `Is it running, and reachable from here? curl -i ${url}. If it is gone, take it out: ${setting}.`,
  })
}

const ofReport = (entry: RosterEntry, report: HealthReport): ReadonlyArray<Finding> => {
  const { activeCalls, draining, maxCalls } = report
  const max = entry.capacity ?? maxCalls
  if (draining) {
    const why = "It says so itself (status), and gets no new call."
    const fix = "Nothing, if somebody is taking it out of service."
    return [warning(`${entry.name} is draining`, { why, fix })]
  }
  if (activeCalls === undefined || max === undefined || activeCalls < max) return []
  const why = "It gets no call until one of its own has ended."
  const fix = "Add a worker, or raise its capacity (core_fleet) or max_calls (its health answer)."
  return [warning(`${entry.name} is full (${activeCalls} of ${max} calls)`, { why, fix })]
}

// The service, too, takes a worker out only after two.
const probe = ({ url }: RosterEntry) =>
  Effect.flatMap(WorkerClient, (client) => Effect.retry(client.health(url), { times: 1 }))

const asksMs = 3_000

// Never a POST: that would be a call. Frameworks answer OPTIONS or GET at a path that exists with anything but 404.
const statusesOf = (url: URL) =>
  Effect.gen(function* () {
    const options = yield* ask(url, { method: "OPTIONS", withinMs: asksMs })
    return options.status === 404 ? yield* ask(url, { method: "GET", withinMs: asksMs }) : options
  })

const ofReply = (entry: RosterEntry, url: URL, reply: Reply): ReadonlyArray<Finding> => {
  if (isRedirect(reply)) {
    return [
      failing(entry)(`${entry.name}: ${url.href} redirects (${reply.status})`, {
        why: "A redirect is not followed: the call gets a 502, and nobody else may be asked.",
        fix: `Name the URL it leads to: ${setting}.`,
      }),
    ]
  }
  if (reply.status !== 404) return []
  return [
    warning(`${entry.name}: ${url.href} answers 404 to OPTIONS and GET`, {
      why: "Either the path is missing, and every call there fails, or the worker knows it for POST alone.",
      fix: "See that the base URL in core_fleet is right; with 405 for other methods than POST this is certain.",
    }),
  ]
}

const unreachable = (entry: RosterEntry, url: URL, reason: string): Finding =>
  failing(entry)(`${entry.name}: ${url.href} cannot be reached (${reason})`, {
    why: "Its health may be good: a call would still not get there.",
    fix: `curl -i -X OPTIONS ${url.href}, from this machine.`,
  })

const dispatchUrl = (entry: RosterEntry) => {
  const url = new URL(`${entry.url}/livekit/dispatch`)
  return Effect.match(statusesOf(url), {
    onSuccess: (reply) => ofReply(entry, url, reply),
    onFailure: ({ reason }) => [unreachable(entry, url, reason)],
  })
}

const worker = Effect.fnUntraced(function* (entry: RosterEntry) {
  const health = yield* Effect.result(probe(entry))
  if (Result.isFailure(health)) return [unhealthy(entry, health.failure.why)]
  const problems = [...ofReport(entry, health.success), ...(yield* dispatchUrl(entry))]
  if (problems.length > 0) return problems
  const state = entry.draining ? "draining by the settings" : "its dispatch URL answers"
  return [ok(`${entry.name} (${entry.url}) is healthy, and ${state}`)]
})

/** Asks every worker, and hands over nothing. */
export const checkFleet = (world: World): Effect.Effect<ReadonlyArray<Finding>> =>
  Effect.gen(function* () {
    const { entries, problems } = rosterOf(world)
    const left = problems.map((problem) =>
      error(`An entry of core_fleet is left out: ${problem}`, {
        why: "That worker gets no call at all.",
        fix: `Correct it: ${setting}.`,
      }),
    )
    const each = yield* Effect.forEach(entries, worker, { concurrency: 8 })
    return [...left, ...nobody(entries, world.settings), ...unused(world), ...each.flat()]
  }).pipe(Effect.provide(Layer.provide(WorkerClient.layer, Layer.succeed(Settings, world.settings))))
