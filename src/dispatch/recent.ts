// What became of the calls that this process has handed over: for the time the database is away, and nobody else
// could say so.

import type { WorkerAnswer } from "../fleet/worker-client.ts"
import type { Outcome } from "./outcome.ts"

const mostRemembered = 20_000
const longestBody = 1024

const small = (answer: WorkerAnswer): WorkerAnswer =>
  answer.body.length <= longestBody
    ? answer
    : { ...answer, contentType: "application/json", body: new TextEncoder().encode('{"ok":true}') }

export interface Recent {
  /** The call is in that room. */
  readonly enter: (room: string, key: string) => void
  /** The call that was last in the room. */
  readonly callIn: (room: string) => string | undefined
  readonly remember: (key: string, outcome: Outcome) => void
  /** How the call ended that something was sent of. */
  readonly find: (key: string) => Outcome | undefined
}

/** Bounded: the oldest call goes first, and of a large answer only that there was one is kept. */
export const makeRecent = (): Recent => {
  const calls = new Map<string, Outcome>()
  const rooms = new Map<string, string>()
  const put = <A>(map: Map<string, A>, key: string, value: A) => {
    map.delete(key)
    map.set(key, value)
    if (map.size > mostRemembered) map.delete(map.keys().next().value ?? "")
  }
  return {
    enter: (room, key) => put(rooms, room, key),
    callIn: (room) => rooms.get(room),
    remember: (key, outcome) => {
      if (outcome._tag === "NotSent" || calls.get(key)?._tag === "Accepted") return
      put(calls, key, "answer" in outcome ? { ...outcome, answer: small(outcome.answer) } : outcome)
    },
    find: (key) => calls.get(key),
  }
}
