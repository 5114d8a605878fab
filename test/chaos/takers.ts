// The fleet: workers that take calls as the contract says, or do whatever a scenario wants of them.

import type { ServerResponse } from "node:http"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { startWorker } from "../support/workers.ts"
import type { SimCall, World } from "./world.ts"

/** What a worker does with a call that reaches it. */
export type Manner =
  /** Answers 200, and its agent joins. */
  | "takes"
  /** The same, seconds later. */
  | "takes slowly"
  /** Its agent joins, and the answer is lost. */
  | "takes, answer lost"
  /** Answers 200, and nobody joins. */
  | "takes, nobody joins"
  /** Drops the connection, and nobody joins. */
  | "drops"
  /** Never answers, and nobody joins. */
  | "hangs"
  | "answers 500"
  /** 429, and the caller is removed from the room. */
  | "turns away"
  /** Its agent joins; the answer's body comes a byte a second, is 50 MB long, or breaks off. */
  | "takes, body drips"
  | "takes, body floods"
  | "takes, body breaks off"

const head = { "content-type": "application/json" }

const drip = (response: ServerResponse) => {
  response.writeHead(200, head)
  const dripping = setInterval(() => response.write("x"), 1_000)
  response.on("close", () => clearInterval(dripping))
}

const flood = (response: ServerResponse) => {
  response.writeHead(200, head)
  const chunk = Buffer.alloc(1024 * 1024, 120)
  let left = 50
  const more = () => {
    while (left-- > 0) if (!response.write(chunk)) return void response.once("drain", more)
    response.end()
  }
  more()
}

const breakOff = (response: ServerResponse) => {
  response.writeHead(200, { ...head, "content-length": "1000" })
  response.write('{"ok":', () => setTimeout(() => response.socket?.destroy(), 20))
}

const json =
  (status: number, body: object) =>
  (response: ServerResponse): void => {
    response.writeHead(status, head).end(JSON.stringify(body))
  }

const take = (response: ServerResponse, worker: string) => json(200, { ok: true, worker })(response)

const answers: { readonly [A in Manner]: (response: ServerResponse, name: string) => void } = {
  takes: take,
  "takes slowly": (response, worker) => {
    setTimeout(() => take(response, worker), 3_000)
  },
  "takes, answer lost": (response) => response.socket?.destroy(),
  "takes, nobody joins": take,
  drops: (response) => response.socket?.destroy(),
  hangs: () => {},
  "answers 500": json(500, { error: "broken" }),
  "turns away": json(429, { error: "full" }),
  "takes, body drips": drip,
  "takes, body floods": flood,
  "takes, body breaks off": breakOff,
}

// Where an agent joins, after so long in ms.
const joinsAfter: Partial<Record<Manner, number>> = {
  takes: 500,
  "takes slowly": 3_500,
  "takes, answer lost": 500,
  "takes, body drips": 500,
  "takes, body floods": 500,
  "takes, body breaks off": 500,
}

export interface Fleet {
  readonly workers: ReadonlyArray<SampleWorker>
  readonly stop: () => Promise<void>
}

/** `manner` is asked for each call that reaches a worker; `earlier` counts who has got it before. */
export const startFleet = async (
  size: number,
  world: World,
  manner: (call: SimCall, earlier: number) => Manner,
  idempotent: boolean,
): Promise<Fleet> => {
  const workers: Array<SampleWorker> = []
  for (let number = 1; number <= size; number++) {
    const worker = await startWorker(`worker-${number}`)
    const active = new Set<SimCall>()
    worker.behaviour.health = (_, response) => {
      for (const call of active) if (call.state === "left") active.delete(call)
      json(200, { status: "ok", active_calls: active.size, max_calls: 1_000, idempotent })(response)
    }
    worker.behaviour.dispatch = ({ body, headers }, response) => {
      const call = world.find(body["call_id"] ?? "")
      if (call === undefined) return json(404, { error: "no such call" })(response)
      const key = headers["idempotency-key"] ?? ""
      // The contract of an idempotent worker: the same key again gets the same answer, and nothing more happens.
      const again = idempotent && call.handovers.some((one) => one.taker === worker.name && one.key === key)
      const how = again ? "takes" : manner(call, call.handovers.length)
      if (!again) world.handedOver(call, worker.name, key)
      active.add(call)
      const after = joinsAfter[how]
      if (after !== undefined && !again) world.agentComes(call, after)
      if (how === "turns away") world.remove(call)
      answers[how](response, worker.name)
    }
    workers.push(worker)
  }
  return {
    workers,
    stop: async () => {
      await Promise.all(workers.map((worker) => worker.stop()))
    },
  }
}
