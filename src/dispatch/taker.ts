// Whoever is to have a call, as the ledger and its statements name it.

import { storable } from "../database/schema.ts"

/** A worker as the ledger names it. */
export interface WorkerRef {
  readonly kind: "fleet"
  readonly name: string
  readonly url: string
}

/** An agent as the ledger names it. */
export interface AgentRef {
  readonly kind: "agent"
  readonly name: string
}

/** Whoever is to have the call. */
export type Taker = WorkerRef | AgentRef

/** Of a worker its URL, else null. */
export const urlOf = (taker: Taker | undefined): string | null => (taker?.kind === "fleet" ? taker.url : null)
/** Of a worker its name, else null. */
export const workerOf = (taker: Taker | undefined): string | null =>
  taker?.kind === "fleet" ? taker.name : null
/** Of an agent its name, else null. */
export const agentOf = (taker: Taker | undefined): string | null =>
  taker?.kind === "agent" ? storable(taker.name) : null
