// Everything that goes wrong on a phone platform, each as a scenario of its own.

import type { Failpoint } from "../../src/failpoint.ts"
import { arm } from "../support/failpoints.ts"
import { hang, later, refusePlainly } from "../support/livekit-api.ts"
import { sleep } from "../support/waiting.ts"
import { besiege } from "./hostile.ts"
import type { Stage } from "./stage.ts"
import type { Manner } from "./takers.ts"
import type { SimCall } from "./world.ts"
import { longestRingMs } from "./world.ts"

export interface Scenario {
  readonly name: string
  /** In a few words, for the table. */
  readonly what: string
  /** Added to the settings of every replica. */
  readonly env?: Readonly<Record<string, string>>
  /** The balancer sends all of a room to one replica: what the README asks for where the database may go away. */
  readonly sticky?: boolean
  /** The share of calls for an agent of LiveKit's; the others are the fleet's. */
  readonly agents?: number
  readonly idempotent?: boolean
  /** What a worker does with a call, by how many have got it before. */
  readonly manner?: (call: SimCall, earlier: number, stage: Stage) => Manner
  /** Goes wrong while calls come. */
  readonly faults?: (stage: Stage) => Promise<void>
  /** Callers who wait this long must be answered, in ms; all who let it ring to the end, unless said otherwise. */
  readonly patientMs?: number
}

/** Does something again and again for as long as calls come. */
const again = async (stage: Stage, ...steps: ReadonlyArray<() => unknown>): Promise<void> => {
  do for (const step of steps) await step()
  while (stage.arriving())
}

const wait = (ms: number) => () => sleep(ms)

const points: ReadonlyArray<Failpoint> = [
  "received",
  "verified",
  "recorded",
  "selected",
  "claimed",
  "connected",
  "sent",
  "answered",
  "stored",
  "replied",
]

const first = (how: Manner, share: number) => (_: SimCall, earlier: number, stage: Stage) =>
  earlier === 0 && stage.random.chance(share) ? how : "takes"

// One of these at each call that reaches a worker for the first time.
const outOfTheOrdinary: ReadonlyArray<Manner> = [
  "takes",
  "takes slowly",
  "takes, answer lost",
  "drops",
  "hangs",
  "answers 500",
  "turns away",
]

const bodies: ReadonlyArray<Manner> = ["takes, body drips", "takes, body floods", "takes, body breaks off"]

export const scenarios: ReadonlyArray<Scenario> = [
  { name: "calm", what: "nothing goes wrong", agents: 0.3 },
  {
    name: "database-restarts",
    what: "PostgreSQL breaks every connection and is back",
    sticky: true,
    faults: (stage) => again(stage, wait(3_000), stage.line.cut, wait(1_500), stage.line.restore),
  },
  {
    name: "database-hangs",
    what: "PostgreSQL takes everything and answers nothing",
    sticky: true,
    faults: (stage) =>
      again(stage, wait(2_000), stage.line.hang, wait(6_000), stage.line.restore, wait(4_000)),
  },
  {
    name: "database-read-only",
    what: "PostgreSQL takes no writes",
    sticky: true,
    faults: (stage) =>
      again(
        stage,
        wait(2_000),
        () => stage.readOnly(true),
        wait(5_000),
        () => stage.readOnly(false),
        wait(4_000),
      ),
  },
  {
    name: "database-full",
    what: "PostgreSQL has too many connections",
    sticky: true,
    faults: (stage) =>
      again(
        stage,
        wait(2_000),
        () => stage.full(true),
        wait(5_000),
        () => stage.full(false),
        wait(4_000),
      ),
  },
  {
    name: "database-locked",
    what: "somebody changes the table of calls, which keeps everybody else from it",
    sticky: true,
    faults: (stage) => again(stage, wait(3_000), () => stage.lockCalls(5_000), wait(4_000)),
  },
  {
    name: "fleet-away",
    what: "no worker answers, for two minutes or as long as calls come",
    faults: async (stage) => {
      await sleep(2_000)
      await Promise.all(stage.fleet.workers.map((worker) => worker.stop()))
      for (let waited = 0; stage.arriving() && waited < 120_000; waited += 1_000) await sleep(1_000)
      await sleep(8_000)
      await Promise.all(stage.fleet.workers.map((worker) => worker.restart()))
    },
  },
  {
    name: "workers-die",
    what: "one worker after the other dies and comes back",
    faults: (stage) =>
      again(stage, async () => {
        const worker = stage.random.pick(stage.fleet.workers)
        await worker.stop()
        await sleep(3_000)
        await worker.restart()
        await sleep(2_000)
      }),
  },
  {
    name: "outcome-unknown",
    what: "workers drop, hang, fail, turn away, answer late",
    manner: (_, earlier, stage) => (earlier === 0 ? stage.random.pick(outOfTheOrdinary) : "takes"),
  },
  {
    name: "idempotent-workers",
    what: "answers are lost, and workers know a key that they have seen",
    idempotent: true,
    manner: first("takes, answer lost", 0.3),
  },
  {
    name: "nobody-joins",
    what: "workers take calls, and nobody joins the room",
    env: { RESCUE: "all" },
    manner: first("takes, nobody joins", 0.3),
  },
  {
    name: "replica-killed",
    what: "kill -9 of a replica, at every step of a dispatch",
    agents: 0.3,
    faults: async (stage) => {
      let next = stage.random.between(0, points.length - 1)
      await again(stage, () => {
        arm(stage.failpoints, { point: points[next++ % points.length]!, how: "kill" })
        return sleep(3_000)
      })
    },
  },
  {
    name: "replica-frozen",
    what: "SIGSTOP of a replica for longer than a lease, then SIGCONT",
    agents: 0.2,
    faults: (stage) =>
      again(stage, async () => {
        const replica = stage.random.pick(stage.replicas)
        await sleep(2_000)
        replica.signal("SIGSTOP")
        await sleep(5_000)
        replica.signal("SIGCONT")
      }),
  },
  {
    name: "rolling-restart",
    what: "one replica after the other is replaced",
    agents: 0.2,
    faults: (stage) =>
      again(stage, async () => {
        for (const replica of stage.replicas) {
          await stage.restart(replica)
          await sleep(2_000)
        }
      }),
  },
  {
    name: "bad-networks",
    what: "workers' answers drip, flood and break off",
    manner: (_, earlier, stage) =>
      earlier === 0 && stage.random.chance(0.2) ? stage.random.pick(bodies) : "takes",
  },
  {
    name: "livekit-restarts",
    what: "LiveKit dies and is back: lost events, ghosts, everybody joins again",
    // An agent that was on its way when LiveKit died does not come.
    env: { RESCUE: "all" },
    agents: 0.3,
    faults: (stage) => again(stage, wait(6_000), () => stage.world.crash()),
  },
  {
    name: "livekit-api-slow",
    what: "LiveKit's API is slow, fails and hangs, while outcomes are unknown",
    agents: 0.2,
    manner: (_, earlier, stage) => (earlier === 0 ? stage.random.pick(outOfTheOrdinary) : "takes"),
    faults: async ({ arriving, world: { livekit } }) => {
      const usual = livekit.behaviour["ListParticipants"]
      for (const how of [later(1_500, usual), hang, refusePlainly(503)]) {
        livekit.behaviour["ListParticipants"] = how
        for (let waited = 0; arriving() && waited < 5_000; waited += 500) await sleep(500)
      }
      livekit.behaviour["ListParticipants"] = usual
    },
  },
  {
    name: "hostile-clients",
    what: "garbage, slow requests, replays and open connections beside the calls",
    env: { RATE_LIMIT_PER_MINUTE: "1000" },
    faults: (stage) => besiege(stage),
  },
  {
    name: "overload",
    what: "ten times as many calls as there is room for, all at once, then none",
    env: { MAX_IN_WORK: "16" },
    patientMs: longestRingMs,
    faults: (stage) => again(stage, () => stage.burst(), wait(4_000)),
  },
]
