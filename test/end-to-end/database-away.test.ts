// The database goes away in every way it can, and the calls go through.

import { mkdtemp, readdir, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import pg from "pg"
import { beforeEach, describe, expect, it } from "vitest"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { openJournal } from "../../src/database/journal.ts"
import { makePostgresDatabase, type PostgresDatabase } from "../support/databases.ts"
import { type JoinEvent, joinEvent, leaveOf } from "../support/events.ts"
import { type Forwarder, startForwarder } from "../support/forwarder.ts"
import { runtimes } from "../support/processes.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { seenByCall, startWorker } from "../support/workers.ts"

describe.each(runtimes)("with the database away, on %s", (runtime) => {
  let database: PostgresDatabase
  let line: Forwarder
  let worker: SampleWorker
  let dataDir: string
  let service: Service

  const admin = (sql: string) => database.query(sql)
  const name = () => new URL(database.url).pathname.slice(1)
  const role = () => `owner_of_${name()}`

  const start = async () => {
    const url = new URL(database.url)
    url.port = String(line.port)
    url.username = role()
    return startService({ DATABASE_URL: url.href, DATA_DIR: dataDir, CORE_FLEET: worker.url }, runtime)
  }
  const ready = (replica: Service) =>
    eventually("ready", async () => (await replica.get("/readyz")).status === 200)

  beforeEach(async () => {
    database = await makePostgresDatabase()
    // A limit of connections holds for nobody who is a superuser.
    await admin(`CREATE ROLE ${role()} LOGIN PASSWORD 'test'; ALTER DATABASE ${name()} OWNER TO ${role()}`)
    const real = new URL(database.url)
    line = await startForwarder({ host: real.hostname, port: Number(real.port) })
    worker = await startWorker()
    worker.behaviour.health = { status: 200, body: { status: "ok", active_calls: 0, max_calls: 10_000 } }
    dataDir = await mkdtemp(join(tmpdir(), "switchhook-away-"))
    service = await start()
    await ready(service)
    return async () => {
      await service.stop("SIGKILL")
      await changing?.end().catch(() => {})
      changing = undefined
      await line.cut().catch(() => {})
      await worker.stop()
      await admin(
        `ALTER DATABASE ${name()} OWNER TO CURRENT_USER; DROP OWNED BY ${role()}; DROP ROLE ${role()}`,
      )
      await database.drop()
      await rm(dataDir, { recursive: true, force: true })
    }
  })

  const idOf = ({ participant }: JoinEvent) => participant.attributes["sip.callID"] ?? ""
  const ring = async (event: unknown) => {
    const answered = await service.ring(event)
    return { ...answered, json: JSON.parse(answered.body) as Record<string, unknown> }
  }
  const agentJoined = ({ room }: JoinEvent, at: number) => ({
    event: "participant_joined",
    id: `EV_${crypto.randomUUID()}`,
    createdAt: String(Math.floor(at / 1000)),
    room,
    participant: {
      sid: `PA_${crypto.randomUUID()}`,
      identity: "agent",
      kind: "AGENT",
      joinedAt: String(Math.floor(at / 1000)),
      joinedAtMs: String(at),
    },
  })
  const rowOf = async (join: JoinEvent) =>
    (
      await database.query<{ state: string; status: string; attempts: number; worker: string }>(
        "SELECT state, status, attempts, worker FROM calls WHERE sip_call_id = $1",
        [idOf(join)],
      )
    )[0]
  const seen = (join: JoinEvent) => seenByCall(worker).get(idOf(join)) ?? 0
  const written = (join: JoinEvent, state: string) =>
    eventually(`the row says ${state}`, async () => (await rowOf(join))?.state === state)

  const disconnectAll = () =>
    admin(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'switchhook%'",
    )

  let changing: pg.Client | undefined
  const faults: ReadonlyArray<
    readonly [
      string,
      {
        readonly begin: () => Promise<unknown>
        readonly end: () => Promise<unknown>
        /** What the service says is wrong with it. */
        readonly says?: string
      },
    ]
  > = [
    ["is gone", { begin: () => line.cut(), end: () => line.restore() }],
    ["hangs, and closes nothing", { begin: async () => line.hang(), end: () => line.restore() }],
    [
      "takes no writes",
      {
        begin: async () => {
          await admin(`ALTER DATABASE ${name()} SET default_transaction_read_only = on`)
          await disconnectAll()
        },
        end: async () => {
          await admin(
            `BEGIN; SET TRANSACTION READ WRITE; ALTER DATABASE ${name()} SET default_transaction_read_only = off; COMMIT`,
          )
          await disconnectAll()
        },
      },
    ],
    [
      "has no connection left",
      {
        begin: async () => {
          await admin(`ALTER ROLE ${role()} CONNECTION LIMIT 0`)
          await disconnectAll()
        },
        end: () => admin(`ALTER ROLE ${role()} CONNECTION LIMIT -1`),
        says: "too many connections",
      },
    ],
    [
      "has its calls locked by somebody who changes them",
      {
        begin: async () => {
          changing = new pg.Client({ connectionString: database.url })
          await changing.connect()
          await changing.query("BEGIN; LOCK TABLE calls IN ACCESS EXCLUSIVE MODE")
        },
        end: async () => changing?.end(),
        says: "somebody has locked its tables",
      },
    ],
  ]

  it.each(faults)(
    "that %s, calls go through, once each, and everything is written afterwards",
    async (_, fault) => {
      const earlier = joinEvent()
      expect((await ring(earlier)).status).toBe(200)
      await fault.begin()

      const [call, refused] = [joinEvent(), joinEvent()]
      const begunAt = performance.now()
      expect(await ring(call)).toMatchObject({ status: 200, json: { ok: true } })
      // A second for noticing, and a margin for a busy machine.
      expect(performance.now() - begunAt).toBeLessThan(10_000)
      // The same caller in the same room, and yet another call.
      const again = joinEvent({ room: call.room })
      expect(await ring(again)).toMatchObject({ status: 200, replayed: false })
      // Without a dispatch rule it is somebody whom we called into the room.
      const callee = joinEvent({ room: call.room, attributes: { "sip.callID": "SCL_callee" } })
      expect(await ring(callee)).toMatchObject({ status: 200, body: '{"ok":true}' })
      expect(seen(callee)).toBe(0)
      worker.behaviour.dispatch = respond(429, { error: "full" })
      expect((await ring(refused)).status).toBe(429)
      worker.behaviour.dispatch = respond(200, { ok: true })

      // What LiveKit sends again is answered from here, also about a call from before.
      for (const known of [earlier, call])
        expect(await ring(known)).toMatchObject({ status: 200, replayed: true, json: { ok: true } })
      expect(await ring(refused)).toMatchObject({
        status: 200,
        replayed: true,
        json: { outcome: "rejected" },
      })
      expect((await ring(agentJoined(call, Date.now() + 1_000))).status).toBe(200)
      expect([earlier, call, again, refused].map(seen)).toEqual([1, 1, 1, 1])
      const readiness = await service.get("/readyz")
      expect([readiness.status, readiness.text]).toEqual([
        503,
        expect.stringMatching(/calls go through, [1-9]\d* claims and [1-9]\d* events wait on disk/),
      ])

      // What it notices first is that its connections break.
      const { says = "" } = fault
      await eventually("it says why", async () => (await service.get("/readyz")).text.includes(says))

      await fault.end()
      await ready(service)
      await written(call, "accepted")
      await written(refused, "rejected")
      await eventually("it is answered", async () => (await rowOf(call))?.status === "active")
      await written(again, "accepted")
      for (const join of [earlier, call, again, refused])
        expect(await rowOf(join)).toMatchObject({ attempts: 1 })
      expect((await ring(call)).replayed).toBe(true)
      expect([earlier, call, again, refused].map(seen)).toEqual([1, 1, 1, 1])
      const { text } = await service.get("/metrics")
      expect(text).toMatch(/^switchhook_backlog\{kind="claim"\} 0$/m)
    },
  )

  it("a caller of whose leave it has heard gets nobody, unless they come back", async () => {
    await line.cut()
    const call = joinEvent()
    expect((await ring(leaveOf(call))).status).toBe(200)
    expect(await ring(call)).toMatchObject({ status: 200, json: { outcome: "left" } })
    const later = String(Number(call.participant.joinedAtMs) + 1)
    const back = { ...call, participant: { ...call.participant, sid: "PA_back", joinedAtMs: later } }
    expect(seen(call)).toBe(0)
    expect(await ring(back)).toMatchObject({ status: 200, json: { worker: worker.name } })
    expect(seen(call)).toBe(1)
    await line.restore()
    await written(call, "accepted")
    expect(await rowOf(call)).toMatchObject({ status: "ringing", attempts: 1 })
  })

  it("a process that is killed leaves its claims to the next one, which gives no call out again", async () => {
    await line.cut()
    const [done, open] = [joinEvent(), joinEvent()]
    expect((await ring(done)).status).toBe(200)
    const begun = Promise.withResolvers<void>()
    worker.behaviour.dispatch = () => begun.resolve()
    const lost = ring(open).catch(() => undefined)
    await begun.promise
    await service.stop("SIGKILL")
    await lost
    // What another version might have kept: it must not keep the rest from being written.
    const [mine] = await readdir(join(dataDir, "journal"))
    const journal = await openJournal(join(dataDir, "journal", mine!))
    for (const kind of ["claim", "story"] as const) {
      journal.append(kind, kind === "claim" ? "claim" : "event", [], "{}")
      journal.append(kind, "something new", [], "no JSON")
    }
    journal.close()
    worker.behaviour.dispatch = respond(200, { ok: true })

    service = await start()
    // Not before it has reached the database for the first time.
    expect((await ring(done)).status).toBe(503)
    await line.restore()
    await eventually("it knows what was done", async () => (await ring(done)).status === 200)
    expect(await ring(done)).toMatchObject({ status: 200, replayed: true })
    // First it looks like a hand-over that is under way elsewhere.
    const second = await eventually("nobody knows what became of it", async () => {
      const answered = await ring(open)
      return answered.status === 200 ? answered : undefined
    })
    expect(second.json).toMatchObject({ outcome: "ambiguous" })
    await written(done, "accepted")
    await written(open, "uncertain")
    expect([done, open].map(seen)).toEqual([1, 1])
    await eventually("nothing waits any more", async () =>
      /^switchhook_backlog\{kind="claim"\} 0\n.*kind="story"\} 0$/m.test(
        (await service.get("/metrics")).text,
      ),
    )
    const refused = service.log.filter(({ message }) => message === "A kept record was refused")
    expect(refused).toHaveLength(4)
  })

  it("that is restarted under load, no call is refused or given out twice, and no row is missing", async () => {
    const joins = Array.from({ length: 120 }, () => joinEvent())
    const answers: Array<Promise<number>> = []
    for (const [index, join] of joins.entries()) {
      answers.push(ring(join).then(({ status }) => status))
      if (index % 40 === 20) {
        await line.cut()
        await line.restore()
      }
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    expect(new Set(await Promise.all(answers))).toEqual(new Set([200]))
    await eventually("all rows are there", async () => {
      const [row] = await database.query<{ count: number }>(
        "SELECT count(*)::integer AS count FROM calls WHERE state = 'accepted'",
      )
      return row?.count === joins.length
    })
    expect(joins.map(seen)).toEqual(joins.map(() => 1))
  })
})
