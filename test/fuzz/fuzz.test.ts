// What the fuzzing by command does at length, in short.

import { expect, inject, it } from "vitest"
import { cases } from "../support/properties.ts"
import { fuzz } from "./run.ts"

it("whatever comes in: the answer that belongs to it, no call twice, no row missing, no memory lost", async () => {
  const { answers, failures } = await fuzz({ cluster: inject("postgres"), cases: 2_000, seed: cases.seed })
  expect(failures).toEqual([])
  // That every class of answers was met, on every URL.
  for (const url of ["dispatch", "events", "sessions", "ask"])
    for (const status of [200, 400, 401]) expect(answers.get(`${url} ${status}`)).toBeGreaterThan(20)
}, 300_000)
