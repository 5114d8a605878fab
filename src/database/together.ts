// What several ask at the same time, in one statement: it costs hardly more than what one asks alone.
//
// Nobody waits for company: a statement takes whoever is there when it begins, and while it is under way, those who
// come gather for the next.

import { clearImmediate, setImmediate } from "node:timers"
import { Cause, Effect, Exit, Option } from "effect"
import type { Database } from "./database.ts"
import { type DatabaseError, isOfStatement } from "./errors.ts"
import type { Batch } from "./statement.ts"

const most = 32

// A statement that waits for a lock must not hold up those who have nothing to do with it. But the more are under way,
// the likelier it is the database that is slow: more of them would only make it slower, and ever more connections too.
const patienceMs = (underWay: number) => Math.min(10 * 2 ** (underWay - 1), 160)

interface Asked<Input, Row> {
  readonly input: Input
  readonly name: string
  readonly order: string
  readonly untilMs: number
  readonly answer: (answer: Effect.Effect<Row | undefined, DatabaseError>) => void
}

/** Whether it may have been one of several that failed for all: a statement that was refused, or could not be made. */
const mayBeOnes = (cause: Cause.Cause<DatabaseError>) =>
  Option.match(Cause.findErrorOption(cause), { onNone: () => true, onSome: isOfStatement })

/** The row that is about the input, `undefined` where there is none; fails like `Database.runUntil`. */
export type Together<Input, Row> = (
  input: Input,
  untilMs: number,
) => Effect.Effect<Row | undefined, DatabaseError>

/** Runs a batch for each who asks, with whoever else asks. What the database refuses of several, each asks alone. */
export const together = <Input, Row>(
  database: Pick<Database["Service"], "kind" | "runUntil">,
  { nameIn, nameOf, orderOf, statement }: Batch<Input, Row>,
): Together<Input, Row> => {
  let gathered: Array<Asked<Input, Row>> = []
  // When each statement that is under way began.
  const underWay = new Map<symbol, number>()
  let planned: { readonly cancel: () => void } | undefined

  const run = (some: ReadonlyArray<Asked<Input, Row>>): void => {
    const itself = Symbol()
    underWay.set(itself, performance.now())
    const untilMs = Math.min(...some.map((asked) => asked.untilMs))
    const asking = Effect.suspend(() => database.runUntil(statement(some.map(({ input }) => input)), untilMs))
    Effect.runFork(asking).addObserver((exit) => {
      underWay.delete(itself)
      if (Exit.isSuccess(exit)) {
        const rows = new Map(exit.value.map((row) => [nameIn(row), row]))
        for (const { answer, name } of some) answer(Effect.succeed(rows.get(name)))
      } else if (some.length > 1 && mayBeOnes(exit.cause)) for (const asked of some) run([asked])
      else for (const { answer } of some) answer(Effect.failCause(exit.cause))
      planAnew()
    })
  }

  const begin = () => {
    planned = undefined
    if (gathered.length === 0) return
    const names = new Set<string>()
    const taken: typeof gathered = []
    const left: typeof gathered = []
    for (const asked of gathered) {
      const fits = taken.length < most && !names.has(asked.name)
      names.add(asked.name)
      ;(fits ? taken : left).push(asked)
    }
    gathered = left
    run(taken.sort((one, other) => (one.order < other.order ? -1 : one.order > other.order ? 1 : 0)))
    plan()
  }

  /** Milliseconds until the newest of those that are under way has had its time. */
  const waitMs = () =>
    Math.max(0, Math.max(...underWay.values()) + patienceMs(underWay.size) - performance.now())

  const plan = () => {
    if (planned !== undefined || gathered.length === 0) return
    if (underWay.size === 0) {
      const immediate = setImmediate(begin)
      planned = { cancel: () => clearImmediate(immediate) }
    } else {
      // The embedded database does one thing after the other.
      if (database.kind === "embedded") return
      const timer = setTimeout(begin, waitMs())
      planned = { cancel: () => clearTimeout(timer) }
    }
  }

  /** One has ended, so that what was planned with it in mind is so no more. */
  const planAnew = () => {
    planned?.cancel()
    planned = undefined
    if (waitMs() === 0) begin()
    else plan()
  }

  return (input, untilMs) =>
    Effect.callback((resume) => {
      const asked: Asked<Input, Row> = {
        input,
        name: nameOf(input),
        order: orderOf(input),
        untilMs,
        answer: resume,
      }
      gathered.push(asked)
      plan()
      return Effect.sync(() => {
        gathered = gathered.filter((one) => one !== asked)
      })
    })
}
