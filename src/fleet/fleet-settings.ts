// What may be written into the settings of the fleet, and how a worker is drained.

import { sql } from "kysely"
import { query, storable } from "../database/schema.ts"
import { isListOfNames, parseRoster } from "./roster.ts"

/** For each setting: every reason why a value cannot be used, none where it can. */
export const fleetSettings: Readonly<Record<string, (value: unknown) => ReadonlyArray<string>>> = {
  core_fleet: (value) => parseRoster(value).problems,
  drained_workers: (value) => (isListOfNames(value) ? [] : ["drained_workers is not a list of names"]),
}

const drained = sql`CASE WHEN jsonb_typeof(s.value) = 'array' THEN s.value ELSE '[]'::jsonb END`

/** Adds the name to `drained_workers`. Where it is there already nobody needs to hear of it. */
export const drainStatement = (name: string) => {
  const item = sql`to_jsonb(${storable(name)}::text)`
  return sql`
    INSERT INTO system_settings AS s (key, value) VALUES ('drained_workers', jsonb_build_array(${item}))
    ON CONFLICT (key) DO UPDATE SET value = ${drained} || ${item}, updated_at = clock_timestamp()
    WHERE NOT ${drained} @> ${item}
  `.compile(query)
}

/** Takes the name out of `drained_workers`; returns a row where it was there. */
export const undrainStatement = (name: string) => {
  const text = sql`${storable(name)}::text`
  return sql<{ key: string }>`
    UPDATE system_settings s SET value = s.value - ${text}, updated_at = clock_timestamp()
    WHERE s.key = 'drained_workers' AND jsonb_typeof(s.value) = 'array' AND s.value @> to_jsonb(${text})
    RETURNING s.key
  `.compile(query)
}
