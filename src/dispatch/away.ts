// Claims of calls while the database is away: made in this process and on its disk, and written when it is back.
//
// Two replicas do not see each other meanwhile. A call whose events reach one of them is still handed over once.

import { Context, Effect, Layer } from "effect"
import { type Call, callNames, meetingOf } from "../calls/call.ts"
import { Backlog, type Unwritten } from "../database/backlog.ts"
import { messageOf } from "../database/errors.ts"
import type { WorkerAnswer } from "../fleet/worker-client.ts"
import type { Ask } from "./ask-statement.ts"
import type { ClaimInput } from "./claim-statement.ts"
import type { Lease } from "./lease.ts"
import { NotSent, type Outcome } from "./outcome.ts"
import type { Taker } from "./taker.ts"

// Room and caller are a call's name only between somebody who asks for an agent and a join: the same caller may
// call the same room again.
const asked = (meeting: string) => (meeting === "" ? "" : `asked ${meeting}`)
const joined = (meeting: string) => (meeting === "" ? "" : `joined ${meeting}`)

const idsOf = (call: Call) => [call.key, ...callNames(call.leg)]
const meetingIn = ({ callerNumber, decision, leg }: Call) =>
  meetingOf(leg.event.room.name, decision.callerE164 ?? callerNumber)

/** The names that a call goes by once it has joined. */
export const namesOfCall = (call: Call): ReadonlyArray<string> => [...idsOf(call), joined(meetingIn(call))]

/** The names by which what is known of a call is found: for its join, and for whoever asks about it. */
export const lookUp = {
  join: (call: Call): ReadonlyArray<string> => [...idsOf(call), asked(meetingIn(call))],
  ask: ({ key, meeting }: Ask): ReadonlyArray<string> => [key, joined(meeting), asked(meeting)],
}

const namesOfAsk = ({ key, meeting }: Ask): ReadonlyArray<string> => [key, asked(meeting)]

/** A call that was claimed or settled while the database was away, as far as this process knows. */
export interface Held {
  readonly names: ReadonlyArray<string>
  readonly rowId: string
  state: "handing" | "waiting" | "accepted" | "rejected" | "uncertain"
  claimId: string
  attempt: number
  taker: Taker | undefined
  answer: WorkerAnswer | undefined
  /** What it was claimed with. */
  input: KeptClaim | undefined
  /** What an agent is told about the call, where somebody asked for one. */
  metadata: string | undefined
}

/** A claim as it is kept. */
export interface KeptClaim extends Omit<ClaimInput, "idempotentUrls"> {}

/** How an attempt ended, as it is kept. */
export interface KeptOutcome {
  readonly key: string
  readonly rowId: string
  readonly claimId: string
  readonly outcome: Outcome
  readonly tookMs: Record<string, number>
}

/** Somebody was told which agent to dispatch. */
export interface KeptAsk {
  readonly ask: Ask
  readonly answer: string
}

/** The records of this module, by their names in the journal. */
export const keptNames = { claim: "claim", outcome: "outcome", ask: "sip-inbound" } as const

const sweepEvery = "10 seconds"

const stateAfter = { Accepted: "accepted", Rejected: "rejected", Ambiguous: "uncertain" } as const

const plainTaker = (taker: Taker | undefined): Taker | undefined => {
  if (taker === undefined) return undefined
  return taker.kind === "fleet"
    ? { kind: "fleet", name: taker.name, url: taker.url }
    : { kind: "agent", name: taker.name }
}

export class Away extends Context.Service<
  Away,
  {
    /** What is known here of a call that the database does not know yet. */
    readonly find: (names: ReadonlyArray<string>) => Held | undefined
    /** Claims the call, for good as far as this process is concerned; it is on disk when this returns. */
    readonly claim: (input: KeptClaim) => Effect.Effect<Held>
    /** Whether this claim was made here, and is not in the database. */
    readonly has: (lease: Lease) => boolean
    /** Goes on with another taker, a claim of its own, after an attempt that sent nothing. */
    readonly moveOn: (lease: Lease, reason: string, taker: Taker) => Effect.Effect<Held | undefined>
    /** Keeps how an attempt ended, be its claim in the database or here. */
    readonly settle: (lease: Lease, outcome: Outcome, tookMs: Record<string, number>) => Effect.Effect<void>
    /** Keeps that somebody was told which agent to dispatch. */
    readonly ask: (ask: Ask, answer: string) => Effect.Effect<Held>
  }
>()("switchhook/dispatch/Away") {
  static readonly layer = Layer.effect(
    Away,
    Effect.gen(function* () {
      const backlog = yield* Backlog
      const held = new Map<string, Held>()

      const put = (one: Held) => {
        for (const name of one.names) if (name !== "") held.set(name, one)
        return one
      }
      // It is written: from here on the database decides.
      const forget = (one: Held) => {
        for (const name of one.names) if (held.get(name) === one) held.delete(name)
      }
      const isWritten = (one: Held) => one.state !== "handing" && !backlog.holds(one.names)
      const find = (names: ReadonlyArray<string>): Held | undefined => {
        for (const name of names) {
          const one = name === "" ? undefined : held.get(name)
          if (one === undefined) continue
          if (!isWritten(one)) return one
          forget(one)
        }
        return undefined
      }

      const claimed = (input: KeptClaim, state: Held["state"]): Held => {
        const names = namesOfCall(input.call)
        const known = find(idsOf(input.call))
        const one: Held = known ?? {
          names,
          rowId: input.rowId,
          state,
          claimId: input.claimId,
          attempt: 0,
          taker: undefined,
          answer: undefined,
          input: undefined,
          metadata: undefined,
        }
        Object.assign(one, {
          state,
          claimId: input.claimId,
          attempt: one.attempt + 1,
          taker: input.taker,
          input,
        })
        return put(one)
      }
      const answered = ({ answer, ask }: KeptAsk): Held =>
        put({
          names: namesOfAsk(ask),
          rowId: "",
          state: "accepted",
          claimId: "",
          attempt: 0,
          taker: { kind: "agent", name: ask.decision.agent.name },
          answer: { status: 200, contentType: "application/json", body: new TextEncoder().encode(answer) },
          input: undefined,
          metadata: ask.decision.metadata,
        })
      const settled = (names: ReadonlyArray<string>, { claimId, outcome, rowId }: KeptOutcome): void => {
        const known = find(names)
        const one: Held = known ?? {
          names,
          rowId,
          state: "handing",
          claimId,
          attempt: 0,
          taker: undefined,
          answer: undefined,
          input: undefined,
          metadata: undefined,
        }
        const accepted = one.state === "accepted"
        one.state =
          outcome._tag === "NotSent" ? (accepted ? "accepted" : "waiting") : stateAfter[outcome._tag]
        if ("answer" in outcome && !accepted) one.answer = outcome.answer
        put(one)
      }

      const sweep = Effect.sync(() => {
        for (const one of new Set(held.values())) if (isWritten(one)) forget(one)
      })
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(sweepEvery), sweep)))

      // What an earlier process has left: whatever it had begun and not ended, nobody knows the end of.
      const recall = ({ body, names, what }: Unwritten) => {
        if (what === keptNames.claim) {
          const kept = body as KeptClaim
          claimed(kept, kept.taker === undefined ? "waiting" : "uncertain")
        }
        if (what === keptNames.outcome) settled(names, body as KeptOutcome)
        if (what === keptNames.ask) answered(body as KeptAsk)
      }
      for (const kept of yield* backlog.claims) {
        yield* Effect.sync(() => recall(kept)).pipe(
          Effect.catchDefect((defect) =>
            Effect.logError("A kept claim is not understood", { what: kept.what, why: messageOf(defect) }),
          ),
        )
      }

      const keep = (what: string, names: ReadonlyArray<string>, body: unknown) =>
        backlog.keep({ kind: "claim", what, names, body } satisfies Unwritten)

      const claim = Effect.fnUntraced(function* (input: KeptClaim) {
        const plain = { ...input, taker: plainTaker(input.taker) }
        const one = claimed(plain, input.taker === undefined ? "waiting" : "handing")
        yield* keep(keptNames.claim, one.names, { ...plain, rowId: one.rowId })
        return one
      })
      const settle = Effect.fnUntraced(function* (
        { callRowId, claimId, key, names }: Lease,
        outcome: Outcome,
        tookMs: Record<string, number>,
      ) {
        const ended: KeptOutcome = { key, rowId: callRowId, claimId, outcome, tookMs }
        // First on disk: what stands in memory only until it is written would be forgotten at once.
        yield* keep(keptNames.outcome, names, ended)
        settled(names, ended)
      })

      return Away.of({
        find,
        claim,
        moveOn: Effect.fnUntraced(function* (lease, reason, taker) {
          const input = find(lease.names)?.input
          if (input === undefined) return undefined
          yield* settle(lease, new NotSent({ reason }), {})
          return yield* claim({ ...input, taker, claimId: crypto.randomUUID() })
        }),
        has: ({ claimId, names }) => find(names)?.claimId === claimId,
        settle,
        ask: Effect.fnUntraced(function* (ask, answer) {
          yield* keep(keptNames.ask, namesOfAsk(ask), { ask, answer } satisfies KeptAsk)
          return answered({ ask, answer })
        }),
      })
    }),
  )
}
