// A replica of an older version, while the others are replaced, asks the database as it always did.

import { Effect, Layer, ManagedRuntime } from "effect"
import { sql } from "kysely"
import { expect, it } from "vitest"
import { meetingOf } from "../../src/calls/call.ts"
import { CallLog } from "../../src/calls/call-log.ts"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { makeCall } from "../support/calls.ts"
import { databaseKinds } from "../support/databases.ts"
import { databaseLayer } from "../support/engines.ts"

it.each(databaseKinds)(
  "on %s, finds the call in the room that it is asked about by another id",
  async (kind) => {
    const runtime = ManagedRuntime.make(Layer.provideMerge(CallLog.layer, databaseLayer(kind)))
    try {
      await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
      const call = makeCall("SCL_joined")
      const asked = (own: string, meeting: string) =>
        runtime.runPromise(
          Effect.flatMap(Database, ({ run }) =>
            run(
              sql<{ key: string }>`
                SELECT call_key_of(${own}::text, ARRAY[${own}::text], ${meeting}::text, true) AS key
              `.compile(query),
            ),
          ),
        )
      await runtime.runPromise(Effect.flatMap(CallLog, (log) => log.recordJoin(call)))
      const { callerNumber, decision, leg } = call
      const meeting = meetingOf(leg.event.room.name, decision.callerE164 ?? callerNumber)
      expect(await asked("their-id", meeting)).toEqual([{ key: call.key }])
      expect(await asked("their-id", meeting)).toEqual([{ key: call.key }])
      const elsewhere = meetingOf("call-elsewhere", callerNumber)
      expect(await asked("another-id", elsewhere)).toEqual([{ key: "another-id" }])
    } finally {
      await runtime.dispose()
    }
  },
)
