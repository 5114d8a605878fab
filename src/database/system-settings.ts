// The table of settings that all replicas share.

import { sql } from "kysely"
import { query, storableJson } from "./schema.ts"

/** One setting as it stands in the database. */
export interface SettingRow {
  readonly key: string
  readonly value: unknown
  readonly updated_at: Date
}

/** These settings, as far as they were ever made. */
export const settingsStatement = (keys: ReadonlyArray<string>) =>
  sql<SettingRow>`
    SELECT key, value, updated_at FROM system_settings WHERE key = ANY (${keys}::text[])
  `.compile(query)

/** Makes a setting, whatever it was before. */
export const putSettingStatement = (key: string, value: unknown) =>
  sql<SettingRow>`
    INSERT INTO system_settings (key, value) VALUES (${key}::text, ${storableJson(value)}::jsonb)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = clock_timestamp()
    RETURNING key, value, updated_at
  `.compile(query)
