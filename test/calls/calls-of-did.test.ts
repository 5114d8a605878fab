// The calls of a DID are found by the numbers that were dialed.

import { Effect, Layer, ManagedRuntime } from "effect"
import { sql } from "kysely"
import { expect, it } from "vitest"
import type { Call } from "../../src/calls/call.ts"
import { callsStatement } from "../../src/calls/call-list.ts"
import { CallLog } from "../../src/calls/call-log.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { makeCall } from "../support/calls.ts"
import { databaseKinds } from "../support/databases.ts"
import { databaseLayer } from "../support/engines.ts"

const did = "00000000-0000-4000-8000-000000000001"

const dialing = (call: Call, dialedE164: string, didId?: string): Call => ({
  ...call,
  decision: { ...call.decision, dialedE164, didId },
})

it.each(databaseKinds)("on %s, also a call whose events have said different ones", async (kind) => {
  const runtime = ManagedRuntime.make(Layer.provideMerge(CallLog.layer, databaseLayer(kind)))
  try {
    await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
    const call = makeCall("SCL_two_numbers")
    await runtime.runPromise(
      Effect.gen(function* () {
        const log = yield* CallLog
        yield* log.recordJoin(dialing(call, "+15550000001"))
        yield* log.recordLeave(dialing(call, "+15550000002", did), { aborted: false })
      }),
    )
    const { rows, numbers } = await runtime.runPromise(
      Effect.gen(function* () {
        const database = yield* Database
        return {
          rows: yield* database.run(callsStatement({ after: undefined, limit: 5 }, { did: { id: did } })),
          numbers: yield* database.run(
            sql<{ number: string }>`SELECT number FROM did_numbers`.compile(query),
          ),
        }
      }),
    )
    expect(rows).toMatchObject([{ call_key: call.key, did_id: did, dialed_e164: "+15550000001" }])
    expect(numbers).toEqual([{ number: "+15550000001" }])
  } finally {
    await runtime.dispose()
  }
})
