// The ids of calls: as PostgreSQL takes them, and in the order of time.

import { setTimeout } from "node:timers/promises"
import { expect, it } from "vitest"
import { newRowId } from "../../src/calls/row-id.ts"

it("is a UUID of version 7 that begins with the time", () => {
  const before = Date.now()
  const id = newRowId()
  const after = Date.now()
  expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  const ms = Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16)
  expect(ms).toBeGreaterThanOrEqual(before)
  expect(ms).toBeLessThanOrEqual(after)
})

it("comes after those of an earlier millisecond, and is no other's", async () => {
  const first = Array.from({ length: 1_000 }, newRowId)
  await setTimeout(5)
  const later = Array.from({ length: 1_000 }, newRowId)
  expect(new Set([...first, ...later]).size).toBe(2_000)
  expect([...first].sort().at(-1)! < [...later].sort()[0]!).toBe(true)
})
