// The steps of a hand-over at which a test can make this process die or freeze.
//
// Nobody can who only talks to the service, or configures it: what happens at a step is a function that must stand in
// `globalThis` before this file is loaded, and only a module that is preloaded with the process can have put it there.

import { Effect } from "effect"

/** The steps, in the order in which a call takes them. */
export type Failpoint =
  /** The bytes are there; nothing is verified. */
  | "received"
  | "verified"
  | "recorded"
  /** Somebody was found to take the call; nothing is claimed. */
  | "selected"
  /** The claim is stored; nothing is sent. */
  | "claimed"
  /** Connected to whoever is to take the call, before the first byte and before the last look at the lease. */
  | "connected"
  /** The request has left; there is no answer. */
  | "sent"
  /** Nothing was sent, and the row names the next worker. */
  | "moved"
  /** It is known how the hand-over has ended, and that is not stored. */
  | "answered"
  /** It is stored; nobody was told. */
  | "stored"
  /** Whoever delivered the call is being told. */
  | "replied"

/**
 * What is done at a step; where that can wait, its promise is waited for. `about` is the call's id (its key where it has
 * none) or, before the event was read, the bytes that came.
 */
export type FailpointHook = (name: Failpoint, about: string | Uint8Array) => void | Promise<void>

const hook = (globalThis as { [name: symbol]: unknown })[Symbol.for("switchhook.failpoint")] as
  | FailpointHook
  | undefined

/** Whether somebody wants to know of the steps. */
export const isWatched: boolean = hook !== undefined

/** Marks a step. Does nothing, unless a test is there. */
export const failpoint: (...step: Parameters<FailpointHook>) => Effect.Effect<void> =
  hook === undefined ? () => Effect.void : (...step) => Effect.promise(async () => hook(...step))

/** The same where nothing can be waited for. */
export const failpointNow: (...step: Parameters<FailpointHook>) => void =
  hook === undefined ? () => {} : (...step) => void hook(...step)
