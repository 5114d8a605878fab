// The memory of the start is given back.

import { it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { expect, vi } from "vitest"

it.effect("once, and not at once", () =>
  Effect.gen(function* () {
    const gc = vi.fn()
    vi.stubGlobal("gc", gc)
    const { trimLayer } = yield* Effect.promise(() => import("../src/memory.ts"))
    yield* Layer.build(trimLayer)
    yield* TestClock.adjust("999 millis")
    expect(gc).not.toHaveBeenCalled()
    yield* TestClock.adjust("1 hour")
    expect(gc).toHaveBeenCalledExactlyOnceWith({ type: "major", execution: "sync", flavor: "last-resort" })
  }).pipe(Effect.ensuring(Effect.sync(() => vi.unstubAllGlobals()))),
)
