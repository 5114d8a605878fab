// How a hand-over of a call can end. What is permitted next hangs on it, so the four cannot be confused.

import { Data } from "effect"
import type { AttemptOutcome } from "../database/schema.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"

/** Nothing was sent that could give the call away: another taker may be asked, and a later delivery may try again. */
export class NotSent extends Data.TaggedClass("NotSent")<{ readonly reason: string }> {}

/** 2xx: the taker has the call. With a `reason`, somebody else has it already, and nothing was sent. */
export class Accepted extends Data.TaggedClass("Accepted")<{
  readonly answer: WorkerAnswer
  readonly reason?: string
}> {}

/** Any other answer: the worker does not have the call, and may have removed the caller. Never sent again. */
export class Rejected extends Data.TaggedClass("Rejected")<{ readonly answer: WorkerAnswer }> {}

/** Sent, and no answer: the worker may have the call. Never sent again blindly. */
export class Ambiguous extends Data.TaggedClass("Ambiguous")<{ readonly reason: string }> {}

export type Outcome = NotSent | Accepted | Rejected | Ambiguous

/** The status line alone decides what an answer means. */
export const fromAnswer = (answer: WorkerAnswer): Accepted | Rejected =>
  answer.status >= 200 && answer.status < 300 ? new Accepted({ answer }) : new Rejected({ answer })

/** A redirect is not followed: the call is rejected, and the sender is told 502. */
export const isRedirect = (answer: WorkerAnswer): boolean => answer.status >= 300 && answer.status < 400

/** The outcomes as the database and the metrics write them. */
export const outcomeNames = {
  NotSent: "not-sent",
  Accepted: "accepted",
  Rejected: "rejected",
  Ambiguous: "ambiguous",
} as const satisfies Record<Outcome["_tag"], AttemptOutcome>
