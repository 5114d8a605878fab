// What the contenders are measured at.

import type { DatabaseKind } from "./contenders.ts"
import { usualDids } from "./events.ts"

/** What the load generator sends. */
export type Kind = "ignored" | "refused" | "call" | "mix" | "replay"

export interface Work {
  readonly name: string
  readonly title: string
  readonly kind: Kind
  readonly database: DatabaseKind
  /** How many numbers are dialed. */
  readonly dids: number
  /** How long the worker takes over each call, in ms. */
  readonly workerMs: number
  /** Whether it is left out of a first look, unless it is asked for. */
  readonly lengthy: boolean
}

const work = (name: string, title: string, kind: Kind, more: Partial<Work> = {}): Work => ({
  name,
  title,
  kind,
  database: "postgres",
  dids: usualDids,
  workerMs: 2,
  lengthy: false,
  ...more,
})

export const works: ReadonlyArray<Work> = [
  work("a", "an ignored event", "ignored"),
  work("b", "a refused event", "refused"),
  work("c", "a dispatched call, worker 2 ms", "call"),
  work("c0", "a dispatched call, worker 0 ms", "call", { workerMs: 0, lengthy: true }),
  work("d", "a call, embedded database", "call", { database: "embedded" }),
  work("e", "1 call in 40 events", "mix"),
  work("f", "a replayed call", "replay"),
]
