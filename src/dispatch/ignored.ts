// An event that is none of the dispatcher's business: an ordinary end of a filter, answered with 200.

import { Data, Effect } from "effect"

/** `stage` is the filter that let the event pass by, `why` a word for the log and the metrics. */
export class Ignored extends Data.TaggedClass("Ignored")<{ readonly stage: string; readonly why: string }> {}

export const ignore = (stage: string, why: string): Effect.Effect<never, Ignored> =>
  Effect.fail(new Ignored({ stage, why }))
