// What a row of the ledger cannot hold, whoever writes it; on both databases.

import { Effect, ManagedRuntime } from "effect"
import { sql } from "kysely"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Database } from "../../src/database/database.ts"
import { query } from "../../src/database/schema.ts"
import { databaseKinds } from "../support/databases.ts"
import { databaseLayer } from "../support/engines.ts"

describe.each(databaseKinds)("a row on %s", (kind) => {
  const runtime = ManagedRuntime.make(databaseLayer(kind))
  const id = crypto.randomUUID()
  const ends = (text: string) =>
    runtime.runPromise(
      Effect.flatMap(Database, ({ run }) => run(sql.raw(text).compile(query))).pipe(
        Effect.match({
          onSuccess: () => "written",
          onFailure: (error) => "constraint" in error && error.constraint,
        }),
      ),
    )

  beforeAll(async () => {
    await runtime.runPromise(Effect.flatMap(Database, ({ migrated }) => migrated))
    await ends(`INSERT INTO calls (id, call_key, state, room_key) VALUES ('${id}', 'row', 'none', '')`)
    await ends(
      `INSERT INTO dispatch_attempts (call_id, attempt, claim, worker) VALUES ('${id}', 1, '${id}', 'w')`,
    )
  })
  afterAll(() => runtime.dispose())

  it.each([
    ["state = 'lost'"],
    ["direction = 'sideways'"],
    ["status = 'parked'"],
    ["hung_up_by = 'nobody'"],
    ["answer_body = convert_to(repeat('x', 65537), 'UTF8')"],
  ])("of a call is refused with %s", async (wrong) => {
    expect(await ends(`UPDATE calls SET ${wrong}`)).toBe("calls_check")
  })

  it.each([["target = 'queue'"], ["outcome = 'maybe'"]])(
    "of an attempt is refused with %s",
    async (wrong) => {
      expect(await ends(`UPDATE dispatch_attempts SET ${wrong}`)).toBe("dispatch_attempts_check")
    },
  )

  it("may hold whatever else there is", async () => {
    const full = `state = 'accepted', direction = 'inbound', status = 'active', hung_up_by = 'us',
      answer_body = convert_to(repeat('x', 65536), 'UTF8')`
    expect(await ends(`UPDATE calls SET ${full}`)).toBe("written")
    expect(await ends("UPDATE dispatch_attempts SET target = 'agent', outcome = 'ambiguous'")).toBe("written")
    expect(await ends("UPDATE calls SET direction = NULL, status = NULL, hung_up_by = NULL")).toBe("written")
  })
})
