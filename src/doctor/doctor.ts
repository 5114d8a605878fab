// Everything that is checked, in the order in which it is read.

import { Cause, Effect, Exit } from "effect"
import { checkClock } from "./check-clock.ts"
import { checkConflicts } from "./check-conflicts.ts"
import { checkDatabase } from "./check-database.ts"
import { checkFleet } from "./check-fleet.ts"
import { checkLiveKit } from "./check-livekit.ts"
import { checkNumbers } from "./check-numbers.ts"
import { checkSettings } from "./check-settings.ts"
import { checkTimeouts } from "./check-timeouts.ts"
import { checkTrunks } from "./check-trunks.ts"
import { checkWebhook } from "./check-webhook.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import type { World } from "./world.ts"

type Check = (world: World) => Effect.Effect<ReadonlyArray<Finding>>

const seen =
  (check: (world: World) => ReadonlyArray<Finding>): Check =>
  (world) =>
    Effect.sync(() => check(world))

const checks: Readonly<Record<string, Check>> = {
  Settings: seen(checkSettings),
  Database: seen(checkDatabase),
  LiveKit: seen(checkLiveKit),
  Clock: seen(checkClock),
  Trunks: seen(checkTrunks),
  Conflicts: seen(checkConflicts),
  Numbers: seen(checkNumbers),
  Fleet: checkFleet,
  Webhook: checkWebhook,
  Timeouts: seen(checkTimeouts),
}

// One check that breaks must not hide what the others find.
const bug = (about: string) =>
  findingsAbout(about).error("This could not be checked", {
    why: "A bug of this command: what it should look at is unknown.",
    fix: "Tell whoever maintains Switchhook what your set-up looks like.",
  })

/** All findings. Never fails. */
export const examine = (world: World): Effect.Effect<ReadonlyArray<Finding>> =>
  Effect.forEach(
    Object.entries(checks),
    ([about, check]) =>
      Effect.flatMap(Effect.exit(check(world)), (exit) => {
        if (Exit.isSuccess(exit)) return Effect.succeed(exit.value)
        return Cause.hasInterruptsOnly(exit.cause) ? Effect.interrupt : Effect.succeed([bug(about)])
      }),
    { concurrency: "unbounded" },
  ).pipe(Effect.map((found) => found.flat()))
