// What `provision` and `failover` share: the carriers of the database, LiveKit's trunks and rules, words for both.

import { Effect, Layer, type Scope } from "effect"
import { type StoredCarrier, storedCarriers } from "../carriers/stored-trunks.ts"
import { Settings, type SettingsShape } from "../config.ts"
import { reachEngine } from "../database/database.ts"
import type { CommandEngine } from "../database/engine.ts"
import type { DatabaseError } from "../database/errors.ts"
import { type LiveKitError, LiveKitSip, whatWentWrong } from "../livekit/sip.ts"
import { CommandFailed } from "./run-command.ts"

/** For each request to LiveKit. */
export const withinMs = 10_000

// What PostgreSQL calls a table or a column that is not there.
const missing = ["42P01", "42703"]

const isDatabaseError = (error: DatabaseError | CommandFailed): error is DatabaseError =>
  error._tag !== "CommandFailed"

const messageOf = (error: DatabaseError) =>
  error._tag === "QueryRefused" && missing.includes(error.code)
    ? "The database is not up to date: npm run migrate"
    : error.message

/** Tells a failure of the database as a command's; one that cannot be reached with the advice. */
export const orDatabaseFailed =
  (advice = "") =>
  <A, R>(effect: Effect.Effect<A, DatabaseError | CommandFailed, R>): Effect.Effect<A, CommandFailed, R> =>
    Effect.mapError(effect, (error) => {
      if (!isDatabaseError(error)) return error
      const more = error._tag === "DatabaseUnavailable" && advice !== "" ? `\n${advice}` : ""
      return new CommandFailed({ message: messageOf(error) + more })
    })

/** Tells a failure of LiveKit as a command's. */
export const orLiveKitFailed = <A, R>(
  effect: Effect.Effect<A, LiveKitError, R>,
): Effect.Effect<A, CommandFailed, R> =>
  Effect.mapError(effect, (error) => new CommandFailed({ message: whatWentWrong(error) }))

/** The database of the settings, open for as long as the command runs. */
export const openDatabase = ({
  database,
}: SettingsShape): Effect.Effect<CommandEngine, DatabaseError, Scope.Scope> => reachEngine(database)

/** The carrier of that name, and all of them. */
export const carrierNamed = Effect.fnUntraced(function* (engine: CommandEngine, name: string) {
  const all = yield* storedCarriers(engine)
  const found = all.find((carrier) => carrier.name === name)
  if (found !== undefined) return { carrier: found, all }
  return yield* new CommandFailed({ message: noSuchCarrier(name, all) })
})

const noSuchCarrier = (name: string, all: ReadonlyArray<StoredCarrier>) => {
  const none = `There is no carrier ${JSON.stringify(name)}`
  if (all.length === 0) return `${none}: there is none at all yet.`
  const names = all.slice(0, 10).map((carrier) => JSON.stringify(carrier.name))
  return `${none}. There is ${names.join(", ")}${all.length > 10 ? ", …" : ""}.`
}

/** All trunks and rules that LiveKit has. */
export const listAll = Effect.gen(function* () {
  const sip = yield* LiveKitSip
  return yield* orLiveKitFailed(
    Effect.all({ trunks: sip.inboundTrunks(withinMs), rules: sip.dispatchRules(withinMs) }),
  )
})

/** LiveKit's SIP service as these settings name it. */
export const sipOf = (settings: SettingsShape): Layer.Layer<LiveKitSip> =>
  Layer.provide(LiveKitSip.layer, Layer.succeed(Settings, settings))
