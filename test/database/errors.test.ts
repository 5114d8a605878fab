// How the errors of a driver are sorted: whoever is told that the database was not reached tries again.

import { describe, expect, it } from "vitest"
import { toDatabaseError } from "../../src/database/errors.ts"

const sorted = (code: string | undefined) => toDatabaseError(Object.assign(new Error("no"), { code }))._tag

describe("an error of a driver", () => {
  it.each(["23505", "42P01", "22P05", "P0001", "XX000", "F0000"])("%s is a refusal", (code) => {
    expect(sorted(code)).toBe("QueryRefused")
  })

  it.each([
    ...["08006", "40001", "40P01", "53300", "57P01", "57014", "25006", "55000"],
    ...["EPIPE", "EBADF", "ECONNRESET", "ECONNREFUSED", "ETIMEDOUT", undefined],
  ])("%s means that the database was not reached", (code) => {
    expect(sorted(code)).toBe("DatabaseUnavailable")
  })
})
