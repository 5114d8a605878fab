// The database: whether it is reached, new enough, and as this version's migrations make it.

import { fewOf } from "../carriers/provisioning.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import type { DatabaseView } from "./look-at-database.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Database")

const oldest = 14

const majorOf = (version: number) => Math.floor(version / 10_000)

const ofOpen = ({ missing, place, unknown, version }: DatabaseView & { readonly kind: "open" }) => {
  const findings: Array<Finding> = []
  if (majorOf(version) < oldest) {
    findings.push(
      error(`${place} is PostgreSQL ${majorOf(version)}`, {
        why: `The statements are written for ${oldest} and later, and tried on nothing older.`,
        fix: `Upgrade it to PostgreSQL ${oldest} or later.`,
      }),
    )
  }
  if (missing.length > 0) {
    findings.push(
      error(`${place} is not up to date: ${fewOf(missing)} ${missing.length === 1 ? "is" : "are"} missing`, {
        why: "The service brings it up to date at its start, and needs what is missing.",
        fix: "npm run migrate",
      }),
    )
  }
  if (unknown.length > 0) {
    findings.push(
      warning(`${place} has migrations that this version does not know: ${fewOf(unknown)}`, {
        why: "A newer version has been at work: this one may not understand its tables.",
        fix: "Run the newer version here, too.",
      }),
    )
  }
  return findings.length > 0
    ? findings
    : [ok(`${place} is reached, PostgreSQL ${majorOf(version)}, and all migrations are applied`)]
}

export const checkDatabase = (world: World): ReadonlyArray<Finding> => {
  const { database } = world
  switch (database.kind) {
    case "open":
      return ofOpen(database)
    case "not made":
      return [
        warning(`There is no embedded database in ${database.dataDir} yet`, {
          why: "Carriers, DIDs and the fleet could not be looked at.",
          fix: "npm run migrate makes it, and so does npm start.",
        }),
      ]
    case "failed":
      return [
        error(database.message, {
          why: "Without the ledger nobody can tell whether a call was handed over; at its start the service answers 503.",
          fix: "Is the server of DATABASE_URL running and reachable from here, and are user and password right?",
        }),
      ]
  }
}
