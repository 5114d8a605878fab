// What a scenario is played on: a database, two replicas, LiveKit with its callers, and a fleet.

import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { webhookHeaders } from "../../src/commands/signing.ts"
import { webhookPath } from "../../src/http/webhook-routes.ts"
import { type ClusterDatabase, createDatabase } from "../support/cluster.ts"
import { fastDatabase } from "../support/fast-clock.ts"
import { type ForwarderThread, startForwarderThread } from "../support/forwarder-thread.ts"
import { eventually, sleep } from "../support/waiting.ts"
import { type Random, randomOf } from "./random.ts"
import { Balancer, Replica } from "./replicas.ts"
import type { Scenario } from "./scenarios.ts"
import { type Outgoing, Sender } from "./sender.ts"
import { type Fleet, startFleet } from "./takers.ts"
import { World } from "./world.ts"

/** Dialed for an agent of LiveKit's, and for the fleet. */
export const dids = { agent: "+18885550101", fleet: "+18885550102" } as const

const kept = 1_000

export interface StageOptions {
  readonly cluster: string
  readonly seed: number
  readonly departureMs: number
}

export class Stage {
  readonly random: Random
  readonly database: ClusterDatabase
  /** The line between the replicas and the database. */
  readonly line: ForwarderThread
  readonly world: World
  readonly fleet: Fleet
  readonly replicas: ReadonlyArray<Replica>
  readonly sender: Sender
  /** The last events that were sent. */
  readonly seen: ReadonlyArray<Outgoing>
  /** For `arm`: the next replica that comes by is struck. */
  readonly failpoints: string
  /** Processes that did not end with 0 when they were asked to end. */
  badExits = 0
  over = false
  private readonly role: string
  private readonly balancer: Balancer
  private readonly directory: string

  private constructor(parts: {
    readonly random: Random
    readonly database: ClusterDatabase
    readonly line: ForwarderThread
    readonly world: World
    readonly fleet: Fleet
    readonly replicas: ReadonlyArray<Replica>
    readonly sender: Sender
    readonly seen: ReadonlyArray<Outgoing>
    readonly role: string
    readonly balancer: Balancer
    readonly directory: string
  }) {
    this.random = parts.random
    this.database = parts.database
    this.line = parts.line
    this.world = parts.world
    this.fleet = parts.fleet
    this.replicas = parts.replicas
    this.sender = parts.sender
    this.seen = parts.seen
    this.role = parts.role
    this.balancer = parts.balancer
    this.directory = parts.directory
    this.failpoints = join(parts.directory, "failpoint")
  }

  static async set(scenario: Scenario, options: StageOptions): Promise<Stage> {
    const random = randomOf(options.seed, scenario.name)
    const directory = await mkdtemp(join(tmpdir(), "switchhook-chaos-"))
    const { database, role, url } = await makeDatabase(options.cluster)
    const line = await startForwarderThread({ host: url.hostname, port: Number(url.port) })
    url.port = String(line.port)
    const seen: Array<Outgoing> = []
    const sender: Sender = new Sender({
      route: (room) => balancer.route(room) + webhookPath,
      onFirstTry: (outgoing) => {
        seen.push(outgoing)
        if (seen.length > 2 * kept) seen.splice(0, kept)
        const call = world.inRoom(outgoing.room)
        if (outgoing.event === "participant_joined" && call !== undefined) call.announcedAt ??= Date.now()
      },
      onAnswer: ({ event, room }) => {
        const call = world.inRoom(room)
        if (event === "participant_joined" && call !== undefined) call.heard = true
      },
      onDropped: ({ room }) => {
        const call = world.inRoom(room)
        if (call !== undefined) call.eventsLost = true
      },
    })
    const world = await World.start(sender, options)
    const fleet = await startFleet(
      4,
      world,
      (call, earlier) => scenario.manner?.(call, earlier, stage) ?? "takes",
      scenario.idempotent === true,
    )
    const env = {
      DATABASE_URL: url.href,
      LIVEKIT_URL: world.livekit.url,
      CORE_FLEET: fleet.workers.map((worker) => worker.url).join(","),
      ANSWER_WITHIN: "5",
      LOG_LEVEL: process.env["CHAOS_LOG_LEVEL"] ?? "warn",
      FAILPOINT_FILE: join(directory, "failpoint"),
      ...scenario.env,
    }
    const replicas = [await Replica.make("replica-1", env), await Replica.make("replica-2", env)]
    const balancer = new Balancer(replicas, scenario.sticky === true)
    const stage: Stage = new Stage({
      random,
      database,
      line,
      world,
      fleet,
      replicas,
      sender,
      seen,
      role,
      balancer,
      directory,
    })
    for (const replica of replicas) await replica.start()
    await seedNumbers(database)
    // The numbers are followed within seconds.
    await sleep(6_000)
    await eventually(
      "the replicas are ready",
      async () => {
        const ready = await Promise.all(replicas.map((replica) => replica.answers("/readyz")))
        return ready.every(Boolean) && replicas.every(({ inRotation }) => inRotation)
      },
      120_000,
    )
    return stage
  }

  /** Whether calls still come. */
  readonly arriving = (): boolean => !this.over

  /** Sends an event again, as it was, to either replica. */
  async replay({ body, room, token }: Outgoing): Promise<void> {
    const headers = webhookHeaders(await token)
    const send = fetch(this.balancer.route(room) + webhookPath, {
      method: "POST",
      headers,
      body: new Uint8Array(body),
    })
    await send.then((answer) => answer.arrayBuffer()).catch(() => {})
  }

  /** Sends the last events all at once, many times over. */
  async burst(): Promise<void> {
    const last = this.seen.slice(-30)
    await Promise.all(
      Array.from({ length: 10 }, () => last).flatMap((all) => all.map((one) => this.replay(one))),
    )
  }

  async readOnly(on: boolean): Promise<void> {
    const name = new URL(this.database.url).pathname.slice(1)
    await this.database.query(
      `BEGIN; SET TRANSACTION READ WRITE; ALTER DATABASE ${name} SET default_transaction_read_only = ${on ? "on" : "off"}; COMMIT`,
    )
    await this.disconnect()
  }

  async full(on: boolean): Promise<void> {
    await this.database.query(`ALTER ROLE ${this.role} CONNECTION LIMIT ${on ? 0 : -1}`)
    if (on) await this.disconnect()
  }

  async lockCalls(forMs: number): Promise<void> {
    await this.database.query(
      `BEGIN; LOCK TABLE calls IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(${forMs / 1_000}); COMMIT`,
    )
  }

  private async disconnect(): Promise<void> {
    await this.database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", [
      this.role,
    ])
  }

  /** Ends one and starts it again; the balancer notices by itself. */
  async restart(replica: Replica): Promise<void> {
    if ((await replica.stop()) !== 0) this.badExits++
    await replica.start()
  }

  async strike(): Promise<void> {
    this.balancer.stop()
    await Promise.all(this.replicas.map((replica) => replica.end()))
    this.sender.close()
    await this.fleet.stop()
    await this.world.livekit.stop()
    await this.line.stop()
    await this.database.drop()
    await rm(this.directory, { recursive: true, force: true })
  }
}

// A role of its own: a superuser is let in where there is no room for anybody else.
const makeDatabase = async (cluster: string) => {
  const database = await createDatabase(cluster)
  const url = new URL(database.url)
  const role = `${url.pathname.slice(1)}_role`
  await database.query(fastDatabase)
  await database.query(`CREATE ROLE ${role} LOGIN PASSWORD 'chaos'`)
  await database.query(`ALTER DATABASE ${url.pathname.slice(1)} OWNER TO ${role}`)
  url.username = role
  url.password = "chaos"
  return { database, role, url }
}

const seedNumbers = async (database: ClusterDatabase) => {
  for (const [target, number] of Object.entries(dids)) {
    await database.query("INSERT INTO dids (number, raw_number, target) VALUES ($1, $1, $2)", [
      number,
      target,
    ])
  }
}
