// The settings of a test, read from a given environment and from nothing else.

import { ConfigProvider, Effect } from "effect"
import { type BadSettings, readSettings, type SettingsShape } from "../../src/config.ts"
import { scratchDirectory } from "./scratch.ts"

/** Reads and validates as the service does at its start. */
export const settingsFrom = (env: Record<string, string>): Effect.Effect<SettingsShape, BadSettings> =>
  readSettings.pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(env))))

/** Good settings, at once; what they write to disk goes where this process' other tests have theirs. */
export const settingsOf = (env: Record<string, string> = {}): SettingsShape =>
  Effect.runSync(settingsFrom({ DATA_DIR: scratchDirectory(), ...env }))
