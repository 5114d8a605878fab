// The bytes of a request's body, and how many of them all together may be on their way.

import { Effect, Stream } from "effect"
import { HttpServerRequest } from "effect/http"
import { type Limits, Settings } from "../config.ts"
import { countRefused } from "../metrics.ts"
import type { BrokenOff, TooLarge, TooMuchAtOnce } from "./answers.ts"

/** More than any event of a call has, in bytes: so those get in, whatever else is on its way. */
export const free = 16 * 1024

// A body that comes in crumbs keeps the thread busy for nothing. A packet holds a hundred times as much.
const crumb = 16
const mostCrumbs = 4_096

const tooLarge: TooLarge = { _tag: "TooLarge" }
const tooMuchAtOnce: TooMuchAtOnce = { _tag: "TooMuchAtOnce" }

const brokenOff = (): BrokenOff => ({ _tag: "BrokenOff" })

/** The declared length, in bytes; `undefined` where a body ends when it says so. */
const declaredLength = ({ headers }: HttpServerRequest.HttpServerRequest): number | undefined => {
  const length = headers["content-length"]
  return length === undefined ? undefined : Number(length)
}

// By all bodies that are arriving in this process, beyond what is free.
let held = 0

/** Keeps a body together as it arrives, in one piece: many small ones would take more than their bytes. */
class Arriving {
  private bytes = new Uint8Array(free)
  private size = 0
  private pieces = 0
  private holds = 0
  private readonly most: number
  private readonly mostOfAll: number
  constructor({ bodiesSize, bodySize }: Limits) {
    this.most = bodySize
    this.mostOfAll = bodiesSize
  }
  add(piece: Uint8Array): TooLarge | TooMuchAtOnce | undefined {
    const size = this.size + piece.length
    this.pieces++
    if (size > this.most || (this.pieces > mostCrumbs && size < this.pieces * crumb)) return tooLarge
    const room = this.bytes.length
    if (size > room && !this.grow(Math.min(Math.max(size, 2 * room), this.most))) return tooMuchAtOnce
    this.bytes.set(piece, this.size)
    this.size = size
    return undefined
  }
  whole(): Uint8Array {
    return this.bytes.subarray(0, this.size)
  }
  release(): void {
    held -= this.holds
    this.holds = 0
  }
  private grow(room: number): boolean {
    const more = room - free - this.holds
    if (held + more > this.mostOfAll) return false
    held += more
    this.holds += more
    const bytes = new Uint8Array(room)
    bytes.set(this.whole())
    this.bytes = bytes
    return true
  }
}

const readLarge = (request: HttpServerRequest.HttpServerRequest, limits: Limits) =>
  Effect.suspend(() => {
    const arriving = new Arriving(limits)
    return Stream.mapError(request.stream, brokenOff).pipe(
      Stream.runForEachArray((pieces) => {
        for (const piece of pieces) {
          const failure = arriving.add(piece)
          if (failure !== undefined) return Effect.fail(failure)
        }
        return Effect.void
      }),
      Effect.map(() => arriving.whole()),
      Effect.ensuring(Effect.sync(() => arriving.release())),
    )
  })

// `request.text` would drop a BOM and replace bad bytes, and the hash would not match what was signed.
/**
 * The body's exact bytes. Fails as soon as it is known to be larger than `MAX_BODY_SIZE`, without the rest; and
 * where it is no small one, and more than `MAX_BODIES_SIZE` would have to be kept of all that have not ended yet.
 */
export const readBytes: Effect.Effect<
  Uint8Array,
  TooLarge | TooMuchAtOnce | BrokenOff,
  HttpServerRequest.HttpServerRequest | Settings
> = Effect.gen(function* () {
  const request = yield* HttpServerRequest.HttpServerRequest
  const { limits } = yield* Settings
  const length = declaredLength(request)
  if (length !== undefined && length > limits.bodySize) return yield* Effect.fail(tooLarge)
  if (length === undefined || length > free) return yield* readLarge(request, limits)
  return yield* request.arrayBuffer.pipe(
    Effect.map((buffer) => new Uint8Array(buffer)),
    Effect.mapError(brokenOff),
  )
}).pipe(
  Effect.tapError(({ _tag }) =>
    Effect.sync(() => {
      if (_tag === "TooLarge") countRefused("size")
      if (_tag === "TooMuchAtOnce") countRefused("bodies")
    }),
  ),
)
