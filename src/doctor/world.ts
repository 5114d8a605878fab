// All that the checks look at: the settings, and what LiveKit, the database and the service said of themselves.

import { Effect } from "effect"
import type { SettingsShape } from "../config.ts"
import { type DatabaseView, lookAtDatabase } from "./look-at-database.ts"
import { type LiveKitView, lookAtLiveKit } from "./look-at-livekit.ts"
import { lookAtService, type ServiceView } from "./look-at-service.ts"

export interface World {
  readonly settings: SettingsShape
  /** The webhook as LiveKit has it; `undefined` where nobody said. */
  readonly webhook: URL | undefined
  readonly livekit: LiveKitView
  readonly database: DatabaseView
  readonly service: ServiceView
}

/** Looks at everything; never fails, as what cannot be seen is a finding. */
export const lookAround = (settings: SettingsShape, webhook: URL | undefined): Effect.Effect<World> =>
  Effect.all(
    {
      settings: Effect.succeed(settings),
      webhook: Effect.succeed(webhook),
      livekit: lookAtLiveKit(settings),
      database: lookAtDatabase(settings.database),
      service: lookAtService(settings, webhook),
    },
    { concurrency: "unbounded" },
  )
