// Fuzzing of the intake: cases against the started service, many at once, and what must be true when they are through.

import fc from "fast-check"
import { respond, type SampleWorker } from "../../src/commands/sample-worker.ts"
import { type ClusterDatabase, createDatabase } from "../support/cluster.ts"
import { joinEvent } from "../support/events.ts"
import { ownRuntime, signal } from "../support/processes.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { startWorker } from "../support/workers.ts"
import { anyCase, type Case, type Delivery, nonce, storyCall } from "./cases.ts"
import { type Answer, classOf, isOf, wrongInStory } from "./expected.ts"
import { heapModule, type Memory, memoryGrowth } from "./memory.ts"
import { openConnections, send, wireOf } from "./requests.ts"

export interface FuzzOptions {
  /** URL of a PostgreSQL cluster's maintenance database. */
  readonly cluster: string
  readonly cases: number
  readonly seed: number
  /** Of one case, as a failure has named it: that one is run, and nothing else. */
  readonly path?: string
  /** Told of how it goes. */
  readonly say?: (line: string) => void
}

export interface FuzzReport {
  readonly cases: number
  readonly requests: number
  readonly tookMs: number
  /** How many answers there were by URL and status. */
  readonly answers: ReadonlyMap<string, number>
  readonly relayed: number
  /** How often load was turned away, and how many cases were given up: the machine had too much to do. */
  readonly shed: number
  readonly unheard: number
  readonly memory: ReadonlyArray<Memory>
  /** Everything that was wrong; empty where all is as it should be. */
  readonly failures: ReadonlyArray<string>
}

const lanes = 8
const adminToken = "admin-token-of-the-fuzzing"

const count = <Key>(counts: Map<Key, number>, key: Key) => counts.set(key, (counts.get(key) ?? 0) + 1)

const shown = (text: string) => {
  const written = JSON.stringify(text)
  return written.length <= 1_500 ? written : `${written.slice(0, 1_500)}… (${text.length} characters)`
}

const showDelivery = ({ text, ...rest }: Delivery) => `  ${JSON.stringify(rest)}\n    ${shown(text)}`

// ---- The stage

/** The service with all that it needs; the service itself is started again where a case has ended it. */
interface Stage {
  readonly database: ClusterDatabase
  readonly worker: SampleWorker
  readonly service: () => Service
  readonly restart: () => Promise<void>
  readonly stop: () => Promise<void>
}

const start = async (database: ClusterDatabase, worker: SampleWorker) => {
  const service = await startService(
    {
      DATABASE_URL: database.url,
      CORE_FLEET: worker.url,
      ADMIN_TOKEN: adminToken,
      // Or a wrong signature would soon be answered 429.
      RATE_LIMIT_PER_MINUTE: "1000000",
      DENO_V8_FLAGS: "--expose-gc",
    },
    ownRuntime,
    [heapModule],
  )
  await ready(service)
  return service
}

const setUp = async (cluster: string): Promise<Stage> => {
  const database = await createDatabase(cluster)
  const worker = await startWorker()
  // As many calls as may come: it is never full.
  worker.behaviour.health = { status: 200, body: { active_calls: 0, max_calls: 10_000_000 } }
  let service = await start(database, worker)
  // Whoever interrupts a run leaves no service behind.
  const end = () => signal(service.process, "SIGKILL")
  process.on("exit", end)
  return {
    database,
    worker,
    service: () => service,
    restart: async () => {
      await service.stop("SIGKILL")
      service = await start(database, worker)
    },
    stop: async () => {
      process.off("exit", end)
      await service.stop("SIGKILL")
      await worker.stop()
      await database.drop()
    },
  }
}

const ready = (service: Service) =>
  eventually("ready", async () => (await service.get("/readyz")).status === 200, 30_000)

/** The worker, which lives in this process, could not be heard in time: what follows says nothing of the service. */
class Unheard extends Error {}

const hasEnded = ({ process }: Service) => process.exitCode !== null || process.signalCode !== null

const notUsable = "Database not usable, trying again"

// What the service says when the database is silent for a moment, and when that is over.
const ofSilence = new Set([
  notUsable,
  "Database away: events are kept for later",
  "Database usable",
  "What waited for the database is written",
])

/** Waits until nothing waits for the database. */
const written = (service: Service) =>
  eventually("all is written that was kept for the database", async () => {
    const { text } = await service.get("/metrics")
    return /^switchhook_backlog\{.*\} \d/m.test(text) && !/^switchhook_backlog\{.*\} [1-9]/m.test(text)
  })

// ---- One run

class Fuzzing {
  readonly stage: Stage
  readonly answers = new Map<string, number>()
  readonly memory: Array<Memory> = []
  requests = 0
  /** How often load was turned away. */
  shed = 0
  /** Cases that were given up, because the machine had too much to do. */
  unheard = 0
  done = 0
  private readonly agent = openConnections(lanes * 3)
  private readonly relays = new Map<string, number>()
  private readonly keys = new Map<string, number>()
  private readonly rows: Array<string> = []
  private runs = 0

  constructor(stage: Stage) {
    this.stage = stage
    const take = respond(200, { ok: true, worker: stage.worker.name })
    stage.worker.behaviour.dispatch = (seen, response) => {
      count(this.relays, seen.body["call_id"] ?? "")
      count(this.keys, seen.headers["idempotency-key"] ?? "")
      take(seen, response)
    }
  }

  get relayed(): number {
    return this.keys.size
  }

  /** Runs a case; throws where anything is not as it has to be. False where it had to be given up. */
  async run(one: Case): Promise<boolean> {
    const run = `z${(this.runs++).toString(36)}z`
    const call = storyCall.replace(nonce, run)
    const saidBefore = this.stage.service().log.length
    try {
      for (const delivery of one.deliveries) await this.deliver(delivery, run)
      const relays = this.relays.get(call) ?? 0
      if (one.relays !== undefined && relays !== one.relays)
        throw new Error(`the worker got the call ${relays} times, and not ${one.relays}`)
    } catch (error) {
      if (!(error instanceof Unheard) && !(await this.wasSilent(saidBefore))) throw error
      this.unheard++
      await ready(this.stage.service())
      return false
    }
    if (one.row) this.rows.push(call)
    this.done++
    return true
  }

  /** Whether the database has been silent since so many lines of the log: who waits for it is answered otherwise. */
  private async wasSilent(since: number): Promise<boolean> {
    const service = this.stage.service()
    if (hasEnded(service)) return false
    // By then it has said that the silence is over.
    await Promise.all([written(service), ready(service)]).catch(() => {})
    await sleep(200)
    return service.log.slice(since).some(({ message = "" }) => ofSilence.has(message))
  }

  private async deliver(delivery: Delivery, run: string): Promise<void> {
    const { expects, times, url } = delivery
    const wire = wireOf(delivery, run)
    const wanted = classOf(delivery, wire.bytes)
    const origin = this.stage.service().url
    const answers: ReadonlyArray<Answer> = await Promise.all(
      Array.from({ length: times }, () => this.insist(() => send(this.agent, origin, url, wire))),
    )
    for (const answer of answers) {
      this.requests++
      count(this.answers, `${url} ${answer.status}`)
      if (answer.status === 503 && answer.body.includes('"No healthy fleet"')) throw new Unheard()
      if (!isOf(wanted, url, answer))
        throw new Error(
          `to be answered: ${wanted}. It is ${answer.status} ${shown(answer.body)}\n${showDelivery(delivery)}`,
        )
    }
    const wrong = expects === undefined ? undefined : wrongInStory(expects, answers)
    if (wrong !== undefined) throw new Error(`${wrong}\n${showDelivery(delivery)}`)
  }

  /** A service that turns load away, on a machine that has too much to do, is asked again, as LiveKit does. */
  private async insist(ask: () => Promise<Answer>): Promise<Answer> {
    for (let times = 0; times < 60; times++) {
      const answer = await ask()
      if (answer.status !== 503 || !answer.body.includes('"Overloaded"')) return answer
      this.shed++
      await sleep(500)
    }
    return ask()
  }

  async sampleMemory(): Promise<void> {
    const service = this.stage.service()
    const before = service.log.length
    signal(service.process, "SIGUSR2")
    const line = await eventually(
      "it says what is left",
      () => service.log.slice(before).find(({ message }) => message === "Memory"),
      60_000,
    )
    this.memory.push({ cases: this.done, heap: Number(line["heap"]), rss: Number(line["rss"]) })
  }

  /** What must be true in the end, and is not. */
  async wrongAfterwards(): Promise<ReadonlyArray<string>> {
    const service = this.stage.service()
    if (hasEnded(service)) return [`the service has ended:\n${service.output().slice(-2_000)}`]
    const found: Array<string> = []
    if (this.unheard > 16 + this.done / 20)
      found.push(`${this.unheard} cases found no worker, or no database`)
    await ready(service)
    const normal = await service.ring(joinEvent())
    if (normal.status !== 200 || normal.replayed || !normal.body.includes(this.stage.worker.name))
      found.push(`a normal call is answered ${normal.status} ${normal.body}`)
    for (const [what, counts] of [
      ["the call", this.relays],
      ["the key", this.keys],
    ] as const)
      for (const [id, times] of counts)
        if (id !== "" && times > 1) found.push(`the worker got ${what} ${shown(id)} ${times} times`)
    await written(service).catch((error) => found.push(messageOf(error)))
    found.push(...(await this.missingRows()), ...(await this.unreadable()))
    const errors = service.log.filter(
      ({ level, message }) => (level === "error" || level === "fatal") && message !== notUsable,
    )
    for (const line of errors.slice(0, 5)) found.push(`it logs an error: ${JSON.stringify(line)}`)
    return found
  }

  private async missingRows() {
    const [row] = await this.stage.database.query<{ count: number }>(
      "SELECT count(*)::integer AS count FROM calls WHERE call_key = ANY ($1::text[])",
      [this.rows],
    )
    return row?.count === this.rows.length ? [] : [`${row?.count} of ${this.rows.length} calls have a row`]
  }

  /** Whatever was taken in must come out: the first pages of all lists. */
  private async unreadable() {
    const found: Array<string> = []
    for (const list of ["calls", "sessions", "leads"]) {
      let next: string | null = `/api/v1/admin/${list}?limit=200`
      for (let page = 0; page < 10 && next !== null; page++) {
        const at: string = next
        const response = await fetch(this.stage.service().url + at, {
          headers: { authorization: `Bearer ${adminToken}` },
        })
        const text = await response.text()
        if (response.status !== 200) {
          found.push(`${at} is answered ${response.status} ${shown(text)}`)
          break
        }
        const cursor: unknown = JSON.parse(text).next_cursor
        next =
          cursor === null
            ? null
            : `/api/v1/admin/${list}?limit=200&cursor=${encodeURIComponent(String(cursor))}`
      }
    }
    return found
  }

  close(): void {
    this.agent.destroy()
  }
}

// ---- Many runs

interface Failed {
  readonly seed: number
  readonly path: string
  /** What was wrong, while others ran beside it. */
  readonly why: string
}

const rerun = ({ path, seed }: Pick<Failed, "seed" | "path">) =>
  `npm run fuzz -- --seed ${seed} --path ${path}`

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))

/** Looks at one failing case by itself, and makes it as small as can be. */
const shrink = async (
  fuzzing: Fuzzing,
  failed: Failed,
): Promise<{ readonly text: string; readonly fails: boolean }> => {
  const found = await fc.check(
    fc.asyncProperty(anyCase, async (one) => {
      if (hasEnded(fuzzing.stage.service())) await fuzzing.stage.restart()
      while (!(await fuzzing.run(one)));
    }),
    { seed: failed.seed, path: failed.path, numRuns: 1 },
  )
  if (!found.failed)
    return { fails: false, text: `${failed.why}\nfails beside others, and not by itself: ${rerun(failed)}` }
  const smallest = found.counterexample?.[0]
  const text = [
    `seed ${found.seed}, path ${found.counterexamplePath}, made smaller ${found.numShrinks} times`,
    messageOf(found.errorInstance),
    "the case:",
    ...(smallest?.deliveries ?? []).map(showDelivery),
    `run it again: ${rerun({ seed: found.seed, path: found.counterexamplePath ?? "" })}`,
  ]
  return { fails: true, text: text.join("\n") }
}

const runLanes = async (fuzzing: Fuzzing, { cases, say = () => {}, seed }: FuzzOptions) => {
  const failed: Array<Failed> = []
  const startedAt = performance.now()
  const samples = 16
  let sampling: Promise<void> | undefined
  const sampleAt = (done: number) => {
    if (sampling !== undefined || done < ((fuzzing.memory.length + 1) * cases) / samples) return
    const seconds = (performance.now() - startedAt) / 1_000
    // Without an answer there are too few samples in the end, and that is a failure of its own.
    const sampled = fuzzing.sampleMemory().catch(() => {})
    sampling = sampled.then(() => {
      sampling = undefined
      const { heap, rss } = fuzzing.memory.at(-1) ?? { heap: 0, rss: 0 }
      const rate = (done / seconds).toFixed(0)
      say(
        `${done} cases in ${seconds.toFixed(0)} s, ${rate} a second; heap ${mib(heap)}, resident ${mib(rss)}`,
      )
    })
  }
  const lane = async (number: number) => {
    const found = await fc.check(
      fc.asyncProperty(anyCase, async (one) => {
        // One failure is enough; what others would say after it may only follow from it.
        if (failed.length > 0) return
        await fuzzing.run(one)
        sampleAt(fuzzing.done)
      }),
      { seed: seed + number, numRuns: Math.ceil(cases / lanes), endOnFailure: true },
    )
    if (found.failed)
      failed.push({
        seed: found.seed,
        path: found.counterexamplePath ?? "",
        why: messageOf(found.errorInstance),
      })
  }
  await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)))
  await sampling
  return failed
}

export const mib = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`

/** Runs the cases; never throws for what the service does wrong. */
export const fuzz = async (options: FuzzOptions): Promise<FuzzReport> => {
  const stage = await setUp(options.cluster)
  const fuzzing = new Fuzzing(stage)
  try {
    const startedAt = performance.now()
    const { path, seed } = options
    const failed = path === undefined ? await runLanes(fuzzing, options) : [{ seed, path, why: "" }]
    const tookMs = performance.now() - startedAt
    const failures: Array<string> = []
    for (const one of failed) {
      const { fails, text } = await shrink(fuzzing, one)
      if (fails || path === undefined) failures.push(text)
      if (fails) break
    }
    if (failures.length === 0) failures.push(...(await fuzzing.wrongAfterwards()))
    if (failures.length === 0 && path === undefined) failures.push(...memoryGrowth(fuzzing.memory))
    const { answers, done, memory, relayed, requests, shed, unheard } = fuzzing
    return { cases: done, requests, tookMs, answers, relayed, shed, unheard, memory, failures }
  } finally {
    fuzzing.close()
    await stage.stop()
  }
}
