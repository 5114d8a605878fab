// The watch: looks after calls that nobody else will, because LiveKit has given up or a process has died, and closes
// what has ended unseen. Every replica has one and none leads: a call that is due is taken by whoever comes first.

import { type Duration, Effect, Exit, Layer, Option } from "effect"
import type { CompiledQuery } from "kysely"
import type { Call } from "../calls/call.ts"
import { CallLog } from "../calls/call-log.ts"
import { Settings } from "../config.ts"
import { Database } from "../database/database.ts"
import { type DatabaseError, messageOf } from "../database/errors.ts"
import { type HandOverNeeds, handOver, rescue } from "../dispatch/hand-over.ts"
import { InFlight } from "../dispatch/in-flight.ts"
import { Ledger } from "../dispatch/ledger.ts"
import { lookInRoom } from "../dispatch/presence.ts"
import { recordGone } from "../dispatch/record.ts"
import { Fleet } from "../fleet/fleet.ts"
import { LiveKit, type RoomParticipant } from "../livekit/livekit.ts"
import { countWatched } from "../metrics.ts"
import type { Routing } from "../routing/routing.ts"
import { Sessions } from "../sessions/sessions.ts"
import { callOfRow } from "./due-call.ts"
import {
  answeredStatement,
  type DueRow,
  deferStatement,
  flagStatement,
  lapseStatement,
  openRoomsStatement,
  takeStatement,
} from "./statements.ts"

const lookEvery = "1 second"
// Where the fleet was away for minutes thousands of callers wait; most of the time that one takes passes elsewhere.
const sideBySide = 32
const soonAgain = "50 millis"

// A caller hangs up after three minutes at the latest; whoever still waits then is not there.
const longestRingMs = 170_000

// LiveKit was silent, or there was nobody to give the call to: a worker may return any moment.
const soonMs = 2_000
const longerMs = 10_000

const roomsEvery = "15 seconds"
const roomsAtOnce = 100
const roomsWithinMs = 5_000

export type WatchNeeds = HandOverNeeds | Database | Routing | Sessions

const run = <A>(statement: CompiledQuery<A>): Effect.Effect<ReadonlyArray<A>, DatabaseError, Database> =>
  Effect.flatMap(Database, (database) => database.run(statement))

const ghostsBefore = ({ ghosts_before_ms }: DueRow) =>
  ghosts_before_ms === null ? undefined : Number(ghosts_before_ms)

const fleetHasSomebody = Effect.gen(function* () {
  const fleet = yield* Fleet
  const { fallbackAgent } = yield* Settings
  return Option.isSome(fallbackAgent) || (yield* fleet.view).some(({ up }) => up)
})

/** Whether this is a call that may get somebody else. */
const mayRescue = Effect.fnUntraced(function* ({ rescued, state }: DueRow) {
  const { rescue: which } = yield* Settings
  const livekit = yield* LiveKit
  return livekit.configured && !rescued && (which === "all" || (which === "failed" && state !== "accepted"))
})

const flag = Effect.fnUntraced(function* (row: DueRow) {
  const flagged = yield* run(flagStatement(row))
  if (flagged.length === 0) return
  countWatched("unanswered")
  yield* Effect.logWarning("Call unanswered", { state: row.state, waited_s: Math.round(row.age_ms / 1000) })
})

const leaveAlone = (row: DueRow) => run(deferStatement(row, undefined))
const lookSoon = (row: DueRow) => run(deferStatement(row, soonMs))

// The answerer's own webhook was lost, or is late.
const recordAnswerer = Effect.fnUntraced(function* ({ leg }: Call, by: RoomParticipant) {
  const log = yield* CallLog
  yield* log.recordAnswerer({ event: leg.event, participant: { ...by, disconnectReason: "" } })
})

const nobodyHasJoined = Effect.fnUntraced(function* (row: DueRow, call: Call) {
  if (yield* mayRescue(row)) {
    const rescued = yield* Effect.exit(
      rescue(call, { seen: row, tried: new Set(row.tried), ghostsBeforeMs: ghostsBefore(row) }),
    )
    countWatched(rescued._tag === "Success" ? "rescued" : "not-rescued")
    return yield* lookSoon(row)
  }
  yield* flag(row)
  yield* leaveAlone(row)
})

const look = Effect.fnUntraced(function* (row: DueRow, call: Call) {
  const { configured } = yield* LiveKit
  if (row.answered) return yield* row.state === "accepted" ? leaveAlone(row) : run(answeredStatement(row))
  if (row.state === "accepted") yield* flag(row)
  // Somebody asked us for an agent, and the caller's own join was never told: there is nobody to look for.
  const isUnseen = (row.participant_identity ?? "") === "" || (row.room_name ?? "") === ""
  if (isUnseen) return yield* leaveAlone(row)
  if (!configured) return yield* nobodyHasJoined(row, call)
  const presence = yield* lookInRoom(call, ghostsBefore(row))
  switch (presence._tag) {
    case "Unknown":
      return yield* lookSoon(row)
    case "Gone":
      countWatched("left")
      return yield* recordGone(call)
    case "Answered":
      countWatched("answered")
      yield* recordAnswerer(call, presence.by)
      return yield* run(answeredStatement(row))
    case "Alone":
      return yield* nobodyHasJoined(row, call)
  }
})

const lookAfter = Effect.fnUntraced(function* (row: DueRow) {
  if (row.age_ms > longestRingMs) {
    countWatched("given-up")
    yield* flag(row)
    return yield* leaveAlone(row)
  }
  const call = yield* callOfRow(row)
  if (row.state !== "waiting") return yield* look(row, call)
  // It is about to be written.
  if ((yield* Ledger).hasLeft(call)) return yield* run(deferStatement(row, longerMs))
  const ended = yield* Effect.exit(handOver(call))
  if (ended._tag === "Success" && ended.value.value._tag === "HandedOver") countWatched("handed-over")
})

const endLapsed = Effect.gen(function* () {
  for (const { call_key, sip_call_id } of yield* run(lapseStatement)) {
    countWatched("lapsed")
    yield* Effect.logWarning("A hand-over has not ended: nobody knows what became of it").pipe(
      Effect.annotateLogs("call_id", sip_call_id || call_key),
    )
  }
})

const lookAfterSafely = (row: DueRow) =>
  lookAfter(row).pipe(
    Effect.catch((error) => Effect.logWarning("Not looked after", { why: error.message })),
    Effect.catchDefect((defect) => Effect.logError("Not looked after", { why: messageOf(defect) })),
    Effect.annotateLogs("call_id", row.sip_call_id || row.call_key),
  )

// No call has a key with such a character.
const watchKey = ({ id }: DueRow) => `\u0000 the watch ${id}`

/** Takes calls that are due, as long as there are any, and has each looked after beside the others. */
const makeLookAfterAll = (): Effect.Effect<void, DatabaseError, WatchNeeds> => {
  let busy = 0
  const begin = (row: DueRow) =>
    Effect.flatMap(InFlight, (inFlight) =>
      inFlight.share<void, never, WatchNeeds>(watchKey(row), (reply) => {
        busy++
        return Effect.andThen(reply(Exit.void), lookAfterSafely(row)).pipe(
          Effect.ensuring(Effect.sync(() => busy--)),
        )
      }),
    )
  const takeSome = Effect.gen(function* () {
    const free = sideBySide - busy
    if (free === 0) return true
    const due = yield* run(takeStatement(free, yield* fleetHasSomebody))
    yield* Effect.forEach(due, begin, { discard: true })
    return due.length === free
  })
  // What is taken is nobody else's for a while: a process that is told to go finishes it, as it does its hand-overs.
  const all: Effect.Effect<void, DatabaseError, WatchNeeds> = Effect.flatMap(
    Effect.uninterruptible(takeSome),
    (more) =>
      more
        ? Effect.andThen(
            Effect.sleep(soonAgain),
            Effect.suspend(() => all),
          )
        : Effect.void,
  )
  return all
}

const closeEndedRooms = Effect.gen(function* () {
  const livekit = yield* LiveKit
  const sessions = yield* Sessions
  const open = yield* run(openRoomsStatement(roomsAtOnce))
  const old = open.filter((room) => room.old)
  const asked = livekit.configured ? open.filter((room) => !room.old) : []
  const names = [...new Set(asked.map(({ room_name }) => room_name))].filter((name) => name !== "")
  const listed = names.length === 0 ? [] : yield* livekit.rooms(names, roomsWithinMs)
  const isThere = ({ room_name, room_sid }: (typeof open)[number]) =>
    listed.some(({ name, sid }) => name === room_name && (room_sid === "" || sid === room_sid))
  const gone = asked.filter((room) => room.room_name !== "" && !isThere(room))
  for (const { room_key, room_name, room_sid } of [...old, ...gone]) {
    countWatched("closed")
    yield* Effect.logInfo("Room closed: its end was never told", { room_sid: room_sid || room_key })
    const room = { sid: room_sid, name: room_name, creationTimeMs: 0 }
    yield* sessions.finished({
      event: "room_finished",
      id: "",
      createdAtMs: Date.now(),
      room,
      participant: undefined,
    })
  }
})

const forever = <E extends { readonly message: string } | { readonly _tag: string }, R>(
  what: string,
  every: Duration.Input,
  work: Effect.Effect<void, E, R>,
) =>
  Effect.gen(function* () {
    const database = yield* Database
    yield* database.migrated
    const once = Effect.suspend(() =>
      // It says so itself when it is back.
      database.fault() === undefined ? work : Effect.void,
    ).pipe(
      Effect.catch((error) =>
        Effect.logWarning(what, { why: "message" in error ? error.message : error._tag }),
      ),
      // One thing that is wrong must not end the watch.
      Effect.catchDefect((defect) => Effect.logError(what, { why: messageOf(defect) })),
    )
    yield* Effect.forever(Effect.andThen(once, Effect.sleep(every)))
  })

/** Watches for as long as the scope is open. */
export const watchLayer: Layer.Layer<never, never, WatchNeeds> = Layer.effectDiscard(
  Effect.all([
    Effect.forkScoped(forever("The watch could not look for lapsed leases", lookEvery, endLapsed)),
    Effect.forkScoped(forever("The watch could not look", lookEvery, makeLookAfterAll())),
    Effect.forkScoped(forever("The watch could not look at rooms", roomsEvery, closeEndedRooms)),
  ]),
)
