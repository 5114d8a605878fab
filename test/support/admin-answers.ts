// What a test expects of the admin API's answers.

import { expect } from "vitest"
import type { Told } from "./admin-client.ts"

/** An id that nothing has. */
export const missing = "00000000-0000-4000-8000-000000000000"

export const expectProblem = (told: Told, status: number, more: object = {}): void => {
  expect(told).toMatchObject({
    status,
    type: "application/problem+json",
    body: { type: "about:blank", status, title: expect.any(String), detail: expect.any(String), ...more },
  })
}

/** A refusal that names these paths, and no other. */
export const expectBad = (told: Told, ...paths: ReadonlyArray<string>): void => {
  expectProblem(told, 400)
  expect(told.body.errors.map(({ path }: { path: string }) => path).sort()).toEqual([...paths].sort())
}

/** What was made. */
export const made = (told: Told): Told["body"] => {
  expect(told).toMatchObject({ status: 201, type: "application/json" })
  return told.body
}

/** What was asked for. */
export const good = (told: Told): Told["body"] => {
  expect(told).toMatchObject({ status: 200, type: "application/json" })
  return told.body
}
