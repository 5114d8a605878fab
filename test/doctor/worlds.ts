// A healthy set-up as the doctor sees it: a provisioned carrier in LiveKit's stand-in, and a database that knows it.

import { Effect } from "effect"
import type { CarrierWithDids, DatabaseView, StoredThings } from "../../src/doctor/look-at-database.ts"
import { lookAtLiveKit } from "../../src/doctor/look-at-livekit.ts"
import type { World } from "../../src/doctor/world.ts"
import { type LiveKitApi, startLiveKitApi } from "../support/livekit-api.ts"
import { makeSipApi, type SipApi } from "../support/livekit-sip.ts"
import { apiKey, apiSecret, coreSecret } from "../support/service.ts"
import { settingsOf } from "../support/settings.ts"

export const did = "+15557654321"
export const second = "+15557654322"

export const acme: CarrierWithDids = {
  id: "00000000-0000-4000-8000-000000000001",
  name: "Acme",
  trunkId: "ST_acme",
  ruleId: "SDR_acme",
  archived: false,
  numbers: [did, second],
}

export const storedThings: StoredThings = {
  carriers: [acme],
  dids: acme.numbers.map((number, position) => ({
    number,
    position,
    carrier_id: acme.id,
    target: null,
  })),
  coreFleet: undefined,
  drainedWorkers: undefined,
}

export const databaseWith = (stored: Partial<StoredThings> = {}): DatabaseView => ({
  kind: "open",
  place: "postgres here/switchhook",
  version: 180_000,
  missing: [],
  unknown: [],
  stored: { ...storedThings, ...stored },
})

/** LiveKit's stand-in with what `npm run provision` makes for the carrier. */
export interface Stage {
  readonly api: LiveKitApi
  readonly sip: SipApi
  /** Everything as it was. */
  readonly reset: () => void
  /** What is to be seen, LiveKit asked anew. */
  readonly world: (env?: Record<string, string>, parts?: Partial<World>) => Promise<World>
}

const trunk = {
  sipTrunkId: "ST_acme",
  name: "Acme",
  numbers: [did, second],
  allowedAddresses: ["203.0.113.0/24"],
  allowedNumbers: [],
}
const rule = {
  sipDispatchRuleId: "SDR_acme",
  name: "Acme",
  trunkIds: ["ST_acme"],
  inboundNumbers: [],
  numbers: [],
  roomConfig: null,
}

export const startStage = async (): Promise<Stage> => {
  const sip = makeSipApi()
  const api = await startLiveKitApi({ key: apiKey, secret: apiSecret, services: sip.services })
  return {
    api,
    sip,
    reset: () => {
      sip.clear()
      sip.putTrunk(trunk)
      sip.putRule(rule)
      for (const method of Object.keys(api.behaviour)) delete api.behaviour[method]
    },
    world: async (env = {}, parts = {}) => {
      const settings = settingsOf({
        NODE_ENV: "production",
        LIVEKIT_API_KEY: apiKey,
        LIVEKIT_API_SECRET: apiSecret,
        CXB_CORE_SECRET: coreSecret,
        DATABASE_URL: "postgres://me:hunter2@here/switchhook",
        ADMIN_TOKEN: "0123456789abcdef",
        LIVEKIT_URL: api.url,
        ...env,
      })
      return {
        settings,
        webhook: undefined,
        livekit: await Effect.runPromise(lookAtLiveKit(settings)),
        database: databaseWith(),
        service: { kind: "ready", at: "http://127.0.0.1:3000/readyz", tookMs: 3 },
        ...parts,
      }
    },
  }
}
