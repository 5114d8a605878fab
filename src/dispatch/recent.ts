// What became of the calls that this process has seen: for the time the database is away, and nobody else could say so,
// and for whoever delivers an event again that has its answer.

import { Bounded } from "../bounded.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import type { Outcome } from "./outcome.ts"

const mostRemembered = 10_000
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
  /** The event of that name, where it has one, has this answer for good: the first one stays. */
  readonly answer: (eventName: string, answer: WorkerAnswer) => void
  readonly answerTo: (eventName: string) => WorkerAnswer | undefined
  /** The caller's leave of a call, by the time of the join that it ends, in ms since 1970. */
  readonly leave: (key: string, joinedAtMs: number) => void
  /** Whether the caller who joined then has left. */
  readonly hasLeft: (key: string, joinedAtMs: number) => boolean
}

/** Bounded: the oldest calls go first, and of a large answer only that there was one is kept. */
export const makeRecent = (): Recent => {
  const calls = new Bounded<Outcome>(mostRemembered)
  const rooms = new Bounded<string>(mostRemembered)
  const leaves = new Bounded<number>(mostRemembered)
  const answers = new Bounded<WorkerAnswer>(mostRemembered)
  return {
    enter: (room, key) => rooms.put(room, key),
    callIn: (room) => rooms.get(room),
    remember: (key, outcome) => {
      if (outcome._tag === "NotSent" || calls.get(key)?._tag === "Accepted") return
      calls.put(key, "answer" in outcome ? { ...outcome, answer: small(outcome.answer) } : outcome)
    },
    find: (key) => calls.get(key),
    answer: (eventName, answer) => {
      // Of a large one the database has all.
      if (eventName === "" || answers.has(eventName) || answer.body.length > longestBody) return
      answers.put(eventName, answer)
    },
    answerTo: (eventName) => answers.get(eventName),
    leave: (key, joinedAtMs) => leaves.put(key, Math.max(joinedAtMs, leaves.get(key) ?? 0)),
    // A leave ends only joins that are not later than its own.
    hasLeft: (key, joinedAtMs) => (leaves.get(key) ?? -1) >= joinedAtMs,
  }
}
