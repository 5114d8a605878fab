// What the start has used and nothing needs any more.

import { Effect, Layer } from "effect"

// Soon, yet not while whoever waited for this process sends it everything at once.
const after = "1 second"

const { gc } = globalThis as {
  readonly gc?: (how: {
    readonly type: "major"
    readonly execution: "sync"
    readonly flavor: "last-resort"
  }) => void
}

/**
 * Gives the memory of the start back, once: source texts, what compiling left behind, pages of V8's that are all but
 * empty. Without, some 30 MiB stay for good. Takes about a tenth of a second, and does nothing unless the runtime lets
 * a program collect garbage (`--expose-gc`).
 */
export const trimLayer: Layer.Layer<never> = Layer.effectDiscard(
  Effect.forkScoped(
    Effect.andThen(
      Effect.sleep(after),
      Effect.sync(() => gc?.({ type: "major", execution: "sync", flavor: "last-resort" })),
    ),
  ),
)
