// What a log line looks like, and that no whole phone number gets into one, whichever way it comes.

import { Cause, Effect } from "effect"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { loggingLayer } from "../src/logging.ts"

const lines: Array<string> = []

beforeEach(() => {
  vi.spyOn(console, "log").mockImplementation((...args) => {
    lines.push(args.join(" "))
  })
})
afterEach(() => {
  vi.restoreAllMocks()
  lines.length = 0
})

const kinds = [
  { kind: "JSON", production: true },
  { kind: "a readable line", production: false },
] as const

const write = (
  production: boolean,
  logging: Effect.Effect<unknown>,
  logLevel: "Info" | "Debug" | "Warn" = "Info",
) => {
  Effect.runSync(logging.pipe(Effect.provide(loggingLayer({ production, logLevel }))))
  return lines.join("\n")
}

const number = "+15551234567"

describe.each(kinds)("a log line as $kind", ({ production }) => {
  it("shows of a number in its message the last four digits", () => {
    const line = write(production, Effect.logInfo(`Calling ${number} now`))
    expect(line).toContain("Calling …4567 now")
    expect(line).not.toContain("555123")
  })

  it("shows of a number in its fields the last four digits, however deep it is nested", () => {
    const line = write(
      production,
      Effect.logInfo("Calling", { caller: number, more: { list: [number, { to: [`sip:${number}@a`] }] } }),
    )
    expect(line).not.toContain("555123")
    expect(line.match(/…4567/g)).toHaveLength(3)
  })

  it("shows of a number in an annotation the last four digits", () => {
    const line = write(
      production,
      Effect.logInfo("Calling").pipe(
        Effect.annotateLogs({ room: `call-_${number}_AbCdEfGhIjKl`, call_id: `made-of-${number}` }),
      ),
    )
    expect(line).not.toContain("555123")
    expect(line).toContain("call-_…4567_AbCdEfGhIjKl")
    expect(line).toContain("made-of-…4567")
  })

  it("shows of a number in a cause the last four digits, and the cause", () => {
    const causes = [Cause.fail(new Error(`no route to ${number}`)), Cause.die(`no route to ${number}`)]
    for (const cause of causes) {
      lines.length = 0
      const line = write(production, Effect.logError("Calling", cause))
      expect(line).toContain("no route to …4567")
      expect(line).not.toContain("555123")
    }
  })

  it("shows of several numbers in several parts no whole one", () => {
    const line = write(production, Effect.logWarning("From", number, "to", "15557654321", 15551112222))
    expect(line).toContain("…4567")
    expect(line).toContain("…4321")
    expect(line).not.toMatch(/\d{10}/)
  })

  it("keeps the ids whole that are looked up by it", () => {
    const ids = {
      call_id: "SCL_1234567890ab",
      call: "01234567-1234-4123-8123-123456789012",
      replica: "12345678-1234-4123-8123-123456789012",
      event_id: "EV_1234567890ab",
    }
    const line = write(
      production,
      Effect.logInfo("Dispatched", { event_id: ids.event_id }).pipe(Effect.annotateLogs(ids)),
    )
    for (const id of Object.values(ids)) expect(line).toContain(id)
  })

  it("is not written below its level", () => {
    write(production, Effect.andThen(Effect.logDebug("small"), Effect.logWarning("large")))
    expect(lines).toHaveLength(1)
    expect(lines[0]).toContain("large")
    lines.length = 0
    expect(write(production, Effect.logDebug("small"), "Debug")).toContain("small")
    lines.length = 0
    expect(write(production, Effect.logInfo("small"), "Warn")).toBe("")
  })
})

describe("a log line in production", () => {
  it("is one line, whatever is in its fields", () => {
    write(
      true,
      Effect.logInfo("Calling\nnobody", { why: "first\nsecond", more: { why: ["first\r\nsecond"] } }),
    )
    expect(lines).toHaveLength(1)
    expect(lines[0]).not.toMatch(/[\r\n]/)
  })

  it("is JSON with time, level and message first, then annotations and fields", () => {
    const line = write(
      true,
      Effect.logWarning("Dispatch failed", { worker: "a", status: 429, ok: false, none: null }).pipe(
        Effect.annotateLogs("call_id", "SCL_9f"),
      ),
    )
    const { time, ...rest } = JSON.parse(line)
    expect(rest).toEqual({
      level: "warn",
      message: "Dispatch failed",
      call_id: "SCL_9f",
      worker: "a",
      status: 429,
      ok: false,
      none: null,
    })
    expect(new Date(time).toISOString()).toBe(time)
    expect(Object.keys(JSON.parse(line)).slice(0, 3)).toEqual(["time", "level", "message"])
  })
})

describe("a log line on a terminal", () => {
  it("has the time, the level where it is not info, the words and the fields", () => {
    const plain = (line: string) => line.replaceAll(/\x1b\[\d+m/g, "")
    const said = Effect.logInfo("Worker up", { worker: "a", load: { now: 0.5 } })
    expect(plain(write(false, said))).toMatch(
      /^\d\d:\d\d:\d\d\.\d{3} Worker up {2}worker=a load=\{"now":0\.5\}$/,
    )
    lines.length = 0
    expect(plain(write(false, Effect.logError("Worker down")))).toMatch(
      /^\d\d:\d\d:\d\d\.\d{3} ERROR Worker down$/,
    )
  })
})
