// The replicas of the service, each a process of its own, and the balancer in front of them.

import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { failpointsModule } from "../support/failpoints.ts"
import { clockEnv, fastClockModule } from "../support/fast-clock.ts"
import { freePorts } from "../support/ports.ts"
import { type Running, signal } from "../support/processes.ts"
import { launch } from "../support/service.ts"
import { eventually, sleep } from "../support/waiting.ts"

const lookEvery = 500
const answersWithin = 2_000

/** One replica: started again on the same port, with the same files, whenever its process has ended. */
export class Replica {
  readonly name: string
  readonly url: string
  private readonly port: number
  private readonly dataDir: string
  private readonly env: Record<string, string>
  private running: Running | undefined
  /** Whether the balancer sends it anything. */
  inRotation = false
  /** Added to the environment of the next start. */
  next: Record<string, string> = {}
  /** Whether somebody starts it again when it has died. */
  supervised = true
  deaths = 0
  /** Everything that its processes have printed. */
  printed = ""

  private constructor(name: string, port: number, dataDir: string, env: Record<string, string>) {
    this.name = name
    this.port = port
    this.url = `http://127.0.0.1:${port}`
    this.dataDir = dataDir
    this.env = env
  }

  static async make(name: string, env: Record<string, string>): Promise<Replica> {
    const dataDir = await mkdtemp(join(tmpdir(), "switchhook-chaos-"))
    const [port = 0] = await freePorts(1)
    return new Replica(name, port, dataDir, env)
  }

  /** Starts a process and waits until it is ready. */
  async start(): Promise<void> {
    const env = { ...this.env, ...this.next, ...clockEnv, PORT: String(this.port), DATA_DIR: this.dataDir }
    const running = launch("node", env, [fastClockModule, failpointsModule])
    this.running = running
    running.exited.then((code) => {
      this.printed += running.output()
      this.inRotation = false
      if (this.running === running) this.running = undefined
      if (code === 0 || !this.supervised) return
      this.deaths++
      setTimeout(() => {
        if (this.supervised && this.running === undefined) this.start().catch(() => {})
      }, 1_000)
    })
    await eventually(
      `${this.name} is up`,
      () => this.running !== running || this.answers("/healthz"),
      120_000,
    )
  }

  async answers(path: string): Promise<boolean> {
    const patience = new AbortController()
    const timer = setTimeout(() => patience.abort(), answersWithin)
    try {
      return (await fetch(this.url + path, { signal: patience.signal })).ok
    } catch {
      return false
    } finally {
      clearTimeout(timer)
    }
  }

  signal(name: NodeJS.Signals) {
    if (this.running !== undefined) signal(this.running.child, name)
  }

  /** Asks it to end, and gives its exit code. */
  async stop(): Promise<number | null> {
    const { running } = this
    if (running === undefined) return 0
    this.supervised = false
    signal(running.child, "SIGCONT")
    signal(running.child, "SIGTERM")
    const code = await running.exited
    this.supervised = true
    return code
  }

  async end(): Promise<void> {
    this.supervised = false
    const { running } = this
    this.signal("SIGCONT")
    this.signal("SIGKILL")
    await running?.exited
    await rm(this.dataDir, { recursive: true, force: true })
  }
}

const hash = (text: string) =>
  [...text].reduce((sum, char) => (Math.imul(sum, 31) + char.charCodeAt(0)) >>> 0, 7)

/** Sends each request to one of those that answer `/healthz`: by chance, or all of a room to the same one. */
export class Balancer {
  private readonly replicas: ReadonlyArray<Replica>
  private readonly sticky: boolean
  private looking = true

  constructor(replicas: ReadonlyArray<Replica>, sticky: boolean) {
    this.replicas = replicas
    this.sticky = sticky
    for (const replica of replicas) this.watch(replica)
  }

  route(room: string): string {
    const up = this.replicas.filter(({ inRotation }) => inRotation)
    const from = this.sticky || up.length === 0 ? this.replicas : up
    const index = this.sticky ? hash(room) : Math.floor(Math.random() * from.length)
    return from[index % from.length]!.url
  }

  stop() {
    this.looking = false
  }

  private async watch(replica: Replica) {
    while (this.looking) {
      replica.inRotation = await replica.answers("/healthz")
      await sleep(lookEvery)
    }
  }
}
