// Who answers which number, from memory: a cache of what the database says, which outlasts the database.

import { Context, Deferred, Effect, Exit, FiberSet, Layer, Queue, Schedule } from "effect"
import { sql } from "kysely"
import { monotonicMs, sleepAwake, theClock } from "../clock.ts"
import { type InboundTarget, Settings } from "../config.ts"
import { Cache } from "../database/cache.ts"
import { Database } from "../database/database.ts"
import { DatabaseUnavailable } from "../database/errors.ts"
import { query } from "../database/schema.ts"
import { type Decision, type Did, decide, type Inquiry, type Knowledge } from "./decision.ts"
import { toE164 } from "./numbers.ts"

/** What the database itself can say. */
type Answer = Exclude<Knowledge, { readonly _tag: "Unreachable" }>

/** `asked`: the generation in which the question was put, not the one in which the answer came. */
interface Entry {
  readonly answer: Answer
  readonly asked: number
}

/** Put to the database, and shared by everybody who asks the same meanwhile. */
interface Question {
  readonly asked: number
  /** Nobody waits longer than until then, on the monotonic clock. */
  readonly until: number
  readonly reply: Deferred.Deferred<Answer | undefined>
}

// More numbers than most platforms have. An entry takes about 280 bytes as read at the start and 410 as asked
// for by a call, so that the memory stays below 85 MB when it is full.
const mostEntries = 200_000

// The caller hears ringing, and an old answer, or none, is better than none for long.
const patienceMs = 1_000
// A later answer is of use to the next call only; for one that never comes the database must be asked anew.
const giveUpAfter = "5 seconds"

// Small enough that no call waits behind a page, on the embedded database not either.
const pageSize = 500
const betweenPages = "5 millis"
const betweenReadings = "1 minute"
const retryEvery = "2 seconds"

interface Row {
  readonly id: string
  readonly number: string
  readonly target: InboundTarget | null
  readonly carrier_id: string | null
  readonly carrier_name: string | null
  readonly tenant_id: string | null
  readonly tenant_name: string | null
  readonly default_agent: string | null
  readonly campaign_id: string | null
  readonly campaign_name: string | null
  readonly agent_name: string | null
  readonly active: boolean | null
}

// A number without a tenant of its own belongs to that of its campaign.
const dids = sql`
  SELECT d.id, d.number, d.target, k.id AS carrier_id, k.name AS carrier_name, t.id AS tenant_id, t.name AS tenant_name,
    t.default_agent, c.id AS campaign_id, c.name AS campaign_name, c.agent_name, c.active
  FROM dids d
  LEFT JOIN carriers k ON k.id = d.carrier_id
  LEFT JOIN campaigns c ON c.id = d.campaign_id
  LEFT JOIN tenants t ON t.id = coalesce(d.tenant_id, c.tenant_id)
`
const didWith = (number: string) => sql<Row>`${dids} WHERE d.number = ${number}::text`.compile(query)
const didsAfter = (number: string) =>
  sql<Row>`${dids} WHERE d.number > ${number}::text ORDER BY d.number LIMIT ${pageSize}::integer`.compile(
    query,
  )

const unknown: Answer = { _tag: "Unknown" }
const unreachable: Knowledge = { _tag: "Unreachable" }

const didOf = (row: Row): Did => ({
  id: row.id,
  number: row.number,
  target: row.target,
  carrier: row.carrier_id === null ? null : { id: row.carrier_id, name: row.carrier_name ?? "" },
  tenant:
    row.tenant_id === null
      ? null
      : { id: row.tenant_id, name: row.tenant_name ?? "", defaultAgent: row.default_agent },
  campaign:
    row.campaign_id === null
      ? null
      : {
          id: row.campaign_id,
          name: row.campaign_name ?? "",
          agentName: row.agent_name,
          active: row.active === true,
        },
})

const answerOf = (row: Row | undefined): Answer =>
  row === undefined ? unknown : { _tag: "Known", did: didOf(row) }

const sharing = <A>() => {
  const seen = new Map<string, A>()
  return (value: A): A => {
    const key = JSON.stringify(value)
    const first = seen.get(key)
    if (first !== undefined) return first
    seen.set(key, value)
    return value
  }
}

/** Makes equal carriers, tenants and campaigns one object each: thousands of numbers belong to the same ones. */
const makeSharing = () => {
  const carriers = sharing<Did["carrier"]>()
  const tenants = sharing<Did["tenant"]>()
  const campaigns = sharing<Did["campaign"]>()
  return (did: Did): Did => ({
    ...did,
    carrier: carriers(did.carrier),
    tenant: tenants(did.tenant),
    campaign: campaigns(did.campaign),
  })
}

/** Bounded, least recently used out; no entry gives way to one that was asked for before it. */
const makeMemory = () => {
  // In the order of use: a Map keeps the order of insertion.
  const entries = new Map<string, Entry>()
  return {
    find: (number: string) => {
      const entry = entries.get(number)
      if (entry === undefined) return undefined
      entries.delete(number)
      entries.set(number, entry)
      return entry
    },
    keep: (number: string, entry: Entry) => {
      const known = entries.get(number)
      if (known !== undefined && known.asked > entry.asked) return
      entries.delete(number)
      entries.set(number, entry)
      if (entries.size > mostEntries) entries.delete(entries.keys().next().value ?? "")
    },
    /** Keeps what nobody called for: it takes no other entry's place. */
    keepUncalled: (number: string, entry: Entry) => {
      const known = entries.get(number)
      if (known === undefined ? entries.size < mostEntries : known.asked < entry.asked)
        entries.set(number, entry)
    },
  }
}

export class Routing extends Context.Service<
  Routing,
  {
    /** What is known of a dialed number in any form; waits a second at most for the database. */
    readonly known: (dialed: string) => Effect.Effect<Knowledge>
    /** Who answers this call, and what an agent is told. Writes nothing. */
    readonly decide: (inquiry: Inquiry) => Effect.Effect<Decision>
  }
>()("switchhook/routing/Routing") {
  static readonly layer = Layer.effect(
    Routing,
    Effect.gen(function* () {
      const settings = yield* Settings
      const database = yield* Database
      const cache = yield* Cache
      const clock = yield* theClock
      const now = () => monotonicMs(clock)
      const fork = yield* FiberSet.makeRuntime()
      const memory = makeMemory()
      const questions = new Map<string, Question>()
      const changes = yield* Queue.sliding<void>(1)

      // Moves after each change: answers to what was asked before are only good while nobody can be asked.
      let generation = 0
      yield* cache.follow(
        "routing",
        Effect.sync(() => {
          generation++
          Queue.offerUnsafe(changes, undefined)
        }),
      )

      const askDatabase = (number: string, { asked, reply }: Question) =>
        database.run(didWith(number)).pipe(
          Effect.timeoutOrElse({
            duration: giveUpAfter,
            orElse: () => Effect.fail(new DatabaseUnavailable({ cause: `no answer within ${giveUpAfter}` })),
          }),
          Effect.map((rows) => {
            const answer = answerOf(rows[0])
            memory.keep(number, { answer, asked })
            return answer
          }),
          Effect.tapError((error) => Effect.logWarning("Phone number not looked up", { why: error.message })),
          Effect.onExit((exit) =>
            Effect.suspend(() => {
              if (questions.get(number)?.reply === reply) questions.delete(number)
              return Deferred.succeed(reply, Exit.isSuccess(exit) ? exit.value : undefined)
            }),
          ),
        )

      const questionFor = (number: string): Question => {
        const other = questions.get(number)
        // Whoever learned of a change cannot share an answer that may be from before it.
        if (other?.asked === generation) return other
        const question = {
          asked: generation,
          until: now() + patienceMs,
          reply: Deferred.makeUnsafe<Answer | undefined>(),
        }
        questions.set(number, question)
        // In no call's own fiber: others wait for the answer, too, and it is kept if that call is gone.
        fork(askDatabase(number, question))
        return question
      }

      const ask = (number: string): Effect.Effect<Knowledge> =>
        Effect.suspend(() => {
          const { reply, until } = questionFor(number)
          // A pause of our own says nothing of the database.
          const patience = Effect.as(sleepAwake(Math.max(0, until - now())), undefined)
          return Effect.raceFirst(Deferred.await(reply), patience)
        }).pipe(Effect.map((reply) => reply ?? memory.find(number)?.answer ?? unreachable))

      const known = (dialed: string) =>
        Effect.suspend(() => {
          const number = toE164(dialed, settings.defaultRegion)
          if (number === undefined) return Effect.succeed<Knowledge>(unknown)
          const entry = memory.find(number)
          if (entry === undefined) return ask(number)
          // With the database known to be away, nobody needs to wait a second to hear so again.
          const good = entry.asked === generation || database.fault() !== undefined
          return good ? Effect.succeed<Knowledge>(entry.answer) : ask(number)
        })

      const readAll = Effect.gen(function* () {
        const share = makeSharing()
        let last = ""
        for (let read = 0; read < mostEntries; read += pageSize) {
          const asked = generation
          const rows = yield* database.run(didsAfter(last))
          for (const row of rows) {
            last = row.number
            memory.keepUncalled(row.number, { answer: { _tag: "Known", did: share(didOf(row)) }, asked })
          }
          if (rows.length < pageSize) return
          yield* Effect.sleep(betweenPages)
        }
      })

      // So that numbers which nobody has called yet are known, too, when the database goes away.
      const readForever = Queue.take(changes).pipe(
        Effect.andThen(
          readAll.pipe(
            Effect.tapError((error) =>
              Effect.logWarning("Phone numbers not read, trying again", { why: error.message }),
            ),
            Effect.retry(Schedule.spaced(retryEvery)),
          ),
        ),
        Effect.andThen(Effect.sleep(betweenReadings)),
        Effect.forever,
      )
      yield* Effect.forkScoped(readForever)

      return Routing.of({
        known,
        decide: (inquiry) =>
          Effect.map(known(inquiry.to), (knowledge) => decide(inquiry, knowledge, settings)),
      })
    }),
  )
}
