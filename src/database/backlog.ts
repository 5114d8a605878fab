// What the database could not take when it came: kept on disk, in order, claims first, and written when it is back.

import { createHash } from "node:crypto"
import { join } from "node:path"
import { Context, Deferred, Effect, Layer, Option } from "effect"
import { sleepAwake } from "../clock.ts"
import { Settings } from "../config.ts"
import { Database } from "./database.ts"
import { type DatabaseError, DatabaseUnavailable, messageOf } from "./errors.ts"
import { type Kept, openJournal, type RecordKind, type Trouble } from "./journal.ts"
import { decode, encode } from "./wire.ts"

/** Something to be written, as data: whoever writes it may be another process than the one that kept it. */
export interface Unwritten {
  /** `claim`: decides who has a call, and is never given up. `story`: only tells what happened. */
  readonly kind: RecordKind
  /** Which of the writers it is for. */
  readonly what: string
  /** Names of the call it belongs to. */
  readonly names: ReadonlyArray<string>
  readonly body: unknown
}

/** Writes what was kept, by what it is; each may be called more than once with the same. */
export type Writers = Readonly<Record<string, (body: unknown) => Effect.Effect<unknown, DatabaseError>>>

/**
 * How long a write may take before it is kept for later, in ms: whoever sends us an event waits for the answer, and
 * LiveKit holds the room's next events back meanwhile.
 */
export const Patience: Context.Reference<number> = Context.Reference<number>("switchhook/database/Patience", {
  defaultValue: () => 1_000,
})

const tryAgainAfter = "500 millis"
const adoptEvery = "10 seconds"
const flushFor = "3 seconds"
const atOnce = 100
const sideBySide = 5

// Where the disk does not take them either: a few minutes of a busy system, and the oldest story goes first.
const mostInMemory = 10_000

// What was kept for one database must never be written to another.
const nameOf = (place: string) => createHash("sha256").update(place).digest("hex").slice(0, 16)

const told = (trouble: Trouble) => {
  const { _tag, ...more } = trouble
  return Effect.logError(`The journal on disk: ${_tag}`, more)
}

export class Backlog extends Context.Service<
  Backlog,
  {
    /**
     * Writes now, and returns what came of it; `undefined` where the database is away and the record is kept for
     * later. Fails where the database was never reached, or refuses the write.
     */
    readonly write: <A, R>(
      unwritten: Unwritten,
      write: Effect.Effect<A, DatabaseError, R>,
    ) => Effect.Effect<A | undefined, DatabaseError, R>
    /** Keeps a record for later, without trying to write it now; it is on disk when this returns. */
    readonly keep: (unwritten: Unwritten) => Effect.Effect<void>
    /** Whether a record waits that goes by one of these names. */
    readonly holds: (names: ReadonlyArray<string>) => boolean
    /** The claims that wait, in their order: what an earlier process has left, at the start. */
    readonly claims: Effect.Effect<ReadonlyArray<Unwritten>>
    /** Begins to write what is kept. */
    readonly begin: (writers: Writers) => Effect.Effect<void>
    readonly size: () => { readonly claims: number; readonly stories: number; readonly dropped: number }
  }
>()("switchhook/database/Backlog") {
  static readonly layer = Layer.effect(
    Backlog,
    Effect.gen(function* () {
      const database = yield* Database
      const { dataDir } = yield* Settings
      const patience = yield* Patience
      const runFork = Effect.runForkWith(yield* Effect.context<never>())
      const journal = yield* Effect.acquireRelease(
        Effect.promise(() =>
          openJournal(join(dataDir, "journal", nameOf(database.place)), {
            tell: (trouble) => runFork(told(trouble)),
          }),
        ),
        (open) => Effect.sync(open.close),
      )
      const begun = yield* Deferred.make<Writers>()

      // ---- What the disk does not take.
      let inMemory: Array<Kept> = []
      let lastInMemory = 0
      let droppedInMemory = 0
      const keepInMemory = ({ body, kind, names, what }: Unwritten) => {
        inMemory.push({ id: --lastInMemory, kind, what, names, body: encode(body) })
        if (inMemory.length <= mostInMemory) return
        const oldest = inMemory.findIndex((kept) => kept.kind === "story")
        if (oldest < 0) return
        inMemory.splice(oldest, 1)
        droppedInMemory++
      }

      const size = () => {
        const { claims, dropped, stories } = journal.size()
        const claimsInMemory = inMemory.filter(({ kind }) => kind === "claim").length
        return {
          claims: claims + claimsInMemory,
          stories: stories + inMemory.length - claimsInMemory,
          dropped: dropped + droppedInMemory,
        }
      }
      const waits = () => {
        const { claims, stories } = size()
        return claims + stories
      }

      const append = (unwritten: Unwritten): Effect.Effect<void> =>
        Effect.suspend(() => {
          const { body, kind, names, what } = unwritten
          const dropped = size().dropped
          try {
            journal.append(kind, what, names, encode(body))
          } catch (error) {
            keepInMemory(unwritten)
            return Effect.logError("Kept in memory only", { what, why: messageOf(error) })
          }
          return size().dropped > 0 && dropped === 0
            ? Effect.logError("The journal is full: the oldest events are given up, and no claim")
            : Effect.void
        })

      const read = (): ReadonlyArray<Kept> => {
        const order = ({ kind }: Kept) => (kind === "claim" ? 0 : 1)
        return [...journal.read(atOnce), ...inMemory.slice(0, atOnce)].sort((a, b) => order(a) - order(b))
      }
      const forget = ({ id }: Kept) => {
        if (id > 0) journal.forget(id)
        else inMemory = inMemory.filter((kept) => kept.id !== id)
      }

      const writeKept = (writers: Writers, kept: Kept): Effect.Effect<boolean> => {
        const writer = writers[kept.what]
        const refused = (why: string) =>
          Effect.logError("A kept record was refused", { what: kept.what, why })
        const written =
          writer === undefined
            ? refused("nobody knows how to write it")
            : Effect.suspend(() => writer(decode(String(kept.body)))).pipe(
                Effect.catchTag("QueryRefused", ({ message }) => refused(message)),
                // What another version has kept may be written otherwise; it must not stop what comes after it.
                Effect.catchDefect((defect) => refused(messageOf(defect))),
              )
        return Effect.match(written, {
          onFailure: () => false,
          onSuccess: () => {
            forget(kept)
            return true
          },
        })
      }
      const drain = Effect.fnUntraced(function* (writers: Writers) {
        if (waits() === 0) return
        let count = 0
        let goesOn = true
        while (goesOn) {
          const some = read()
          const write = (kept: Kept) =>
            Effect.suspend(() => (goesOn ? writeKept(writers, kept) : Effect.succeed(false))).pipe(
              Effect.tap((done) =>
                Effect.sync(() => {
                  goesOn = goesOn && done
                  if (done) count++
                }),
              ),
            )
          yield* Effect.forEach(
            some.filter(({ kind }) => kind === "claim"),
            write,
            { discard: true },
          )
          // What happened merges to the same, whatever the order.
          yield* Effect.forEach(
            some.filter(({ kind }) => kind === "story"),
            write,
            { concurrency: sideBySide, discard: true },
          )
          goesOn = goesOn && some.length > 0
        }
        if (count > 0) yield* Effect.logInfo("What waited for the database is written", { written: count })
      })
      const drainIfThere = Effect.suspend(() =>
        database.fault() === undefined ? Effect.flatMap(Deferred.await(begun), drain) : Effect.void,
      )

      yield* database.migrated.pipe(
        Effect.andThen(Effect.forever(Effect.andThen(drainIfThere, Effect.sleep(tryAgainAfter)))),
        Effect.forkScoped,
      )
      yield* Effect.promise(() => journal.adopt()).pipe(
        Effect.andThen(Effect.sleep(adoptEvery)),
        Effect.forever,
        Effect.forkScoped,
      )
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() =>
          waits() === 0 ? Effect.void : Effect.timeoutOption(drainIfThere, flushFor),
        ).pipe(
          Effect.andThen(
            Effect.suspend(() =>
              waits() === 0
                ? Effect.void
                : Effect.logWarning("Stopped with records unwritten: the next start writes them", {
                    records: waits(),
                    lost: inMemory.length,
                  }),
            ),
          ),
        ),
      )

      const write = Effect.fnUntraced(function* <A, R>(
        unwritten: Unwritten,
        effect: Effect.Effect<A, DatabaseError, R>,
      ): Effect.fn.Return<A | undefined, DatabaseError, R> {
        if (!database.reached()) return yield* new DatabaseUnavailable({ cause: "it was never reached" })
        // Nobody waits for a database that others are waiting for already, nor overtakes them.
        if (database.fault() !== undefined || waits() > 0)
          return yield* Effect.as(append(unwritten), undefined)
        const written = yield* effect.pipe(
          Effect.map(Option.some),
          // A pause of our own says nothing of the database.
          Effect.raceFirst(Effect.as(sleepAwake(patience), Option.none<A>())),
          Effect.catchTag("DatabaseUnavailable", () => Effect.succeed(Option.none<A>())),
        )
        if (Option.isSome(written)) return written.value
        yield* append(unwritten)
        yield* Effect.logWarning("Database away: events are kept for later", { what: unwritten.what })
        return undefined
      })

      return Backlog.of({
        write,
        keep: append,
        holds: (names) =>
          journal.holds(names) ||
          inMemory.some((kept) => kept.names.some((name) => name !== "" && names.includes(name))),
        claims: Effect.sync(() =>
          journal
            .read(journal.size().claims)
            .filter(({ kind }) => kind === "claim")
            .flatMap(({ body, kind, names, what }) => {
              try {
                return [{ kind, what, names, body: decode(String(body)) }]
              } catch {
                // Whoever writes it will say so.
                return []
              }
            }),
        ),
        begin: (writers) => Effect.asVoid(Deferred.succeed(begun, writers)),
        size,
      })
    }),
  )
}
