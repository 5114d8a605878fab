// Fails on purpose: a run that passes with it would pass with anything.

import { expect, it } from "vitest"

it("fails", () => {
  expect("a failing test").toBe("a failing run")
})
