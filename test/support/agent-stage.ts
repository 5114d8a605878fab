// A stage for calls that agents answer: the service on PostgreSQL, LiveKit's API, a worker, numbers and callers.

import { createHmac } from "node:crypto"
import type { SampleWorker } from "../../src/commands/sample-worker.ts"
import { signBody, webhookHeaders } from "../../src/commands/signing.ts"
import { makePostgresDatabase, type PostgresDatabase } from "./databases.ts"
import { type Join, type JoinEvent, joinEvent } from "./events.ts"
import {
  type ApiDispatch,
  type ApiRequest,
  asUsual,
  type Behaviour,
  type LiveKitApi,
  startLiveKitApi,
} from "./livekit-api.ts"
import type { Runtime } from "./processes.ts"
import { apiKey, apiSecret, coreSecret, type Service, startService, toBytes } from "./service.ts"
import { eventually } from "./waiting.ts"
import { startWorker } from "./workers.ts"

export const adminToken = "admin-token-of-the-tests"

/** The numbers of the stage; all but the unknown one are DIDs of one tenant. */
export const numbers = {
  /** An agent's, by its own setting; its campaign has an agent. */
  agent: "+18885550101",
  /** The fleet's, by its own setting. */
  fleet: "+18885550102",
  /** Whoever `INBOUND_TARGET` says. Its campaign is inactive, so that the tenant's agent is the one. */
  tenant: "+18885550103",
  /** In no table. */
  unknown: "+18885550199",
} as const

/** Who is dispatched for which number. */
export const agents = {
  campaign: "spring-agent",
  tenant: "acme-agent",
  default: "telephony-agent",
  fallback: "backup-agent",
} as const

// Nobody calls twice unless a test says so: calls of one caller to one campaign share a lead.
const callerPrefix = "+1555123"
let callers = 0

/** A caller's number that no other call of this run has. */
export const newCaller = (): string => `${callerPrefix}${String(++callers).padStart(4, "0")}`

const methods = ["ListParticipants", "ListDispatch", "CreateDispatch"] as const
export type Method = (typeof methods)[number]

/** What a webhook was answered, as far as any of it matters to LiveKit. */
export interface Answer {
  readonly status: number
  readonly contentType: string
  readonly retryAfter: string | null
  readonly replayed: boolean
  readonly body: unknown
  readonly tookMs: number
}

/** The row of a call. */
export interface CallRow {
  readonly state: string
  readonly outcome: string | null
  readonly status: string
  readonly target: string
  readonly agent_name: string | null
  readonly worker: string | null
  readonly worker_url: string | null
  readonly metadata: string
  readonly hung_up_by: string | null
  readonly end_reason: string | null
  readonly explanation: { readonly route: unknown; readonly considered: ReadonlyArray<unknown> }
  readonly did_id: string | null
  readonly tenant_id: string | null
  readonly campaign_id: string | null
}

/** One hand-over of a call. */
export interface AttemptRow {
  readonly target: string
  readonly worker: string
  readonly worker_url: string | null
  readonly outcome: string | null
  readonly status: number | null
}

/** The ids that the tables gave. */
export interface Ids {
  readonly tenant: string
  readonly campaign: string
  readonly inactiveCampaign: string
  readonly dids: Readonly<Record<string, string>>
}

const seed = async ({ query }: PostgresDatabase): Promise<Ids> => {
  const id = async (sql: string, ...values: ReadonlyArray<unknown>) =>
    (await query<{ id: string }>(`${sql} RETURNING id`, values))[0]?.id ?? ""
  const tenant = await id("INSERT INTO tenants (name, default_agent) VALUES ('acme', $1)", agents.tenant)
  const aCampaign = (name: string, agent: string, active: boolean) =>
    id(
      "INSERT INTO campaigns (tenant_id, name, agent_name, active) VALUES ($1, $2, $3, $4)",
      tenant,
      name,
      agent,
      active,
    )
  const campaign = await aCampaign("spring", agents.campaign, true)
  const inactiveCampaign = await aCampaign("autumn", "nobody", false)
  const aDid = (number: string, target: string | null, its: string) =>
    id(
      "INSERT INTO dids (number, raw_number, target, campaign_id, tenant_id) VALUES ($1, $1, $2, $3, $4)",
      number,
      target,
      its,
      tenant,
    )
  const dids = {
    [numbers.agent]: await aDid(numbers.agent, "agent", campaign),
    [numbers.fleet]: await aDid(numbers.fleet, "fleet", campaign),
    [numbers.tenant]: await aDid(numbers.tenant, null, inactiveCampaign),
  }
  return { tenant, campaign, inactiveCampaign, dids }
}

/** Signs and posts like LiveKit, and reads whatever LiveKit would go by. */
export const ring = async (service: Service, event: unknown): Promise<Answer> => {
  const body = toBytes(event)
  const headers = webhookHeaders(await signBody(body, apiKey, apiSecret))
  const startedAt = performance.now()
  const response = await fetch(service.webhook, { method: "POST", headers, body, redirect: "manual" })
  const text = await response.text()
  return {
    status: response.status,
    contentType: response.headers.get("content-type") ?? "",
    retryAfter: response.headers.get("retry-after"),
    replayed: response.headers.get("switchhook-replayed") === "true",
    body: JSON.parse(text),
    tookMs: performance.now() - startedAt,
  }
}

/** What every answer with an error of our own looks like to the sender. */
export const problem = (status: 502 | 503, detail: string) => ({
  status,
  contentType: "application/problem+json",
  retryAfter: null,
  replayed: false,
  body: {
    type: "about:blank",
    title: status === 502 ? "Bad Gateway" : "Service Unavailable",
    status,
    detail,
  },
})

/** Asks which agent to dispatch, signed with an HMAC. */
export const askForAgent = async (service: Service, question: object): Promise<Record<string, unknown>> => {
  const body = JSON.stringify(question)
  const signature = createHmac("sha256", apiSecret).update(body).digest("hex")
  const response = await fetch(`${service.url}/api/v1/webhooks/livekit/sip-inbound`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-livekit-signature": signature },
    body,
  })
  return (await response.json()) as Record<string, unknown>
}

const sentAt = (createdAtMs: number) => String(Math.floor(createdAtMs / 1000))

/** The `room_started` of a call's room, at that time. */
export const roomStarted = ({ room }: JoinEvent, createdAtMs: number) => ({
  event: "room_started",
  id: `EV_${crypto.randomUUID()}`,
  room,
  createdAt: sentAt(createdAtMs),
})

/** The same caller's join of the same call after a reconnect: new ids, a later time. */
export const rejoinOf = (join: JoinEvent, joinedAtMs: number): JoinEvent => ({
  ...join,
  id: `EV_${crypto.randomUUID()}`,
  createdAt: sentAt(Date.now()),
  participant: {
    ...join.participant,
    sid: `PA_${crypto.randomUUID()}`,
    joinedAt: sentAt(joinedAtMs),
    joinedAtMs: String(joinedAtMs),
  },
})

/** The same event, sent so long after it was made. */
export const agedBy = (join: JoinEvent, ms: number): JoinEvent => ({
  ...join,
  createdAt: sentAt(Date.now() - ms),
})

export const callIdOf = ({ participant }: JoinEvent): string => participant.attributes["sip.callID"] ?? ""

export const callerOf = ({ participant }: JoinEvent): string =>
  participant.attributes["sip.phoneNumber"] ?? ""

/** What a call may have of its own. */
export interface Arrival extends Join {
  /** By default somebody new. */
  readonly caller?: string
  /** Whether the caller is in the room when the webhook comes; `nobody`: the room is there, its caller is not. */
  readonly present?: "caller" | "nobody"
}

export interface AgentStage {
  readonly database: PostgresDatabase
  readonly livekit: LiveKitApi
  readonly worker: SampleWorker
  readonly ids: Ids
  /** The first replica. */
  readonly service: Service
  /** One more; an empty text takes a setting away. Not waited for until it is ready, which it may never be. */
  readonly replica: (env?: Record<string, string>, preload?: ReadonlyArray<string>) => Promise<Service>
  /** A call to that number: its room with its caller in LiveKit, and the webhook. */
  readonly arrive: (dialed: string, more?: Arrival) => JoinEvent
  /** The caller joins LiveKit's room as the event says. */
  readonly enter: (join: JoinEvent) => void
  /** Makes LiveKit behave so in one method, and for this call's room only; as usual without a behaviour. */
  readonly behave: (join: JoinEvent, method: Method, behaviour?: Behaviour) => void
  /** What LiveKit was asked about the call's room. */
  readonly asked: (join: JoinEvent, method: Method) => ReadonlyArray<ApiRequest>
  /** What LiveKit has dispatched into the call's room. */
  readonly dispatched: (join: JoinEvent) => ReadonlyArray<ApiDispatch>
  /** The agents in the call's room. */
  readonly agentsIn: (join: JoinEvent) => ReadonlyArray<string>
  readonly row: (join: JoinEvent) => Promise<CallRow>
  readonly attempts: (join: JoinEvent) => Promise<ReadonlyArray<AttemptRow>>
  /** How long (ms) the call's last hand-over waited for the answer that it did not get, as is stored of it. */
  readonly waitedMs: (join: JoinEvent) => Promise<number>
  /** What the worker got of the call. */
  readonly relayed: (join: JoinEvent) => number
  /** Everything that any replica has printed. */
  readonly output: () => string
  /** Ends the replicas; what they printed is complete then. */
  readonly stopServices: () => Promise<void>
  readonly stop: () => Promise<void>
}

/** Which of its methods LiveKit's API has been told to do differently, room by room. */
const makeBehaviours = (livekit: LiveKitApi) => {
  const byRoom = new Map<string, Behaviour>()
  for (const method of methods) {
    livekit.behaviour[method] = (work, response) => {
      // The newest request is the one that this is called for.
      const room = String(livekit.requests.at(-1)?.body?.["room"])
      return (byRoom.get(`${method} ${room}`) ?? asUsual)(work, response)
    }
  }
  return ({ room }: JoinEvent, method: Method, behaviour?: Behaviour) => {
    if (behaviour === undefined) byRoom.delete(`${method} ${room.name}`)
    else byRoom.set(`${method} ${room.name}`, behaviour)
  }
}

const joinTo = (dialed: string, caller: string, { attributes, participant, room, ...join }: Join) =>
  joinEvent({
    ...join,
    room: { name: `call-_${caller}_${crypto.randomUUID().slice(0, 12)}`, ...room },
    participant: { identity: `sip_${caller}`, name: `Phone ${caller}`, ...participant },
    attributes: {
      "sip.callID": join.callId ?? `SCL_${crypto.randomUUID().replaceAll("-", "")}`,
      "sip.trunkID": "ST_in",
      "sip.ruleID": "SDR_1",
      "sip.phoneNumber": caller,
      "sip.trunkPhoneNumber": dialed,
      "sip.callStatus": "ringing",
      ...attributes,
    },
  })

/** No call is ever due: what becomes of one is a delivery's work, however long a test takes between two. */
const unwatch = async ({ query }: PostgresDatabase) => {
  await query(
    `CREATE FUNCTION unwatched() RETURNS trigger LANGUAGE plpgsql AS $$
     BEGIN
       NEW.watch_at := NULL;
       RETURN NEW;
     END $$`,
  )
  // Triggers fire in the order of their names: this one after those that say when a call is due.
  await query(
    "CREATE TRIGGER zz_unwatched BEFORE INSERT OR UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION unwatched()",
  )
}

const followed = (service: Service, ids: Ids) =>
  eventually("the numbers are known", async () => {
    const response = await fetch(`${service.url}/api/v1/webhooks/test`, {
      method: "POST",
      headers: { authorization: `Bearer ${adminToken}` },
      body: JSON.stringify({ to_number: numbers.tenant, from_number: newCaller() }),
    })
    return (await response.text()).includes(ids.dids[numbers.tenant] ?? "")
  })

/**
 * Starts everything on that runtime, the service with `env`; ready, with the numbers known to it. Without `watch` no
 * call is handed over but by a delivery.
 */
export const startAgentStage = async (
  runtime: Runtime,
  env: Record<string, string> = {},
  { watch = true }: { readonly watch?: boolean } = {},
): Promise<AgentStage> => {
  const database = await makePostgresDatabase()
  const worker = await startWorker()
  const livekit = await startLiveKitApi({
    key: apiKey,
    secret: apiSecret,
    runningAgents: Object.values(agents),
  })
  const behave = makeBehaviours(livekit)
  const services: Array<Service> = []
  const replica = async (more: Record<string, string> = {}, preload: ReadonlyArray<string> = []) => {
    const service = await startService(
      {
        ...database.env,
        LIVEKIT_URL: livekit.url,
        CORE_FLEET: worker.url,
        ADMIN_TOKEN: adminToken,
        ...env,
        ...more,
      },
      runtime,
      preload,
    )
    services.push(service)
    return service
  }
  const service = await replica()
  await eventually("ready", async () => (await service.get("/readyz")).status === 200)
  const ids = await seed(database)
  if (!watch) await unwatch(database)
  await followed(service, ids)

  const enter = ({ participant, room }: JoinEvent) => {
    livekit.addRoom(room.name, room.sid)
    livekit.addParticipant(room.name, {
      identity: participant.identity,
      kind: "SIP",
      joinedAtMs: Number(participant.joinedAtMs),
      attributes: participant.attributes,
    })
  }
  const stopServices = async () => {
    await Promise.all(services.map((started) => started.stop()))
  }
  return {
    database,
    livekit,
    worker,
    ids,
    service,
    replica,
    enter,
    behave,
    arrive: (dialed, { caller = newCaller(), present = "caller", ...more } = {}) => {
      const join = joinTo(dialed, caller, more)
      livekit.addRoom(join.room.name, join.room.sid)
      if (present === "caller") enter(join)
      return join
    },
    asked: ({ room }, method) =>
      livekit.requests.filter((request) => request.method === method && request.body?.["room"] === room.name),
    dispatched: ({ room }) => livekit.dispatches.filter((dispatch) => dispatch.room === room.name),
    agentsIn: ({ room }) =>
      livekit
        .participants(room.name)
        .filter(({ kind }) => kind === "AGENT")
        .map(({ attributes, identity }) => attributes["lk.agent.name"] ?? identity),
    row: async (join) => {
      const rows = await database.query<CallRow>("SELECT * FROM calls WHERE sip_call_id = $1", [
        callIdOf(join),
      ])
      if (rows[0] === undefined || rows.length > 1) throw new Error(`the call has ${rows.length} rows`)
      return rows[0]
    },
    attempts: (join) =>
      database.query<AttemptRow>(
        `SELECT a.target, a.worker, a.worker_url, a.outcome, a.status
         FROM dispatch_attempts a JOIN calls c ON c.id = a.call_id WHERE c.sip_call_id = $1 ORDER BY a.attempt`,
        [callIdOf(join)],
      ),
    waitedMs: async (join) => {
      const rows = await database.query<{ reason: string | null }>(
        `SELECT a.reason FROM dispatch_attempts a JOIN calls c ON c.id = a.call_id WHERE c.sip_call_id = $1
         ORDER BY a.attempt DESC LIMIT 1`,
        [callIdOf(join)],
      )
      return Number(/no answer within (\d+) ms/.exec(rows[0]?.reason ?? "")?.[1])
    },
    relayed: (join) => worker.seen.filter(({ body }) => body["call_id"] === callIdOf(join)).length,
    output: () => services.map((started) => started.output()).join("\n"),
    stopServices,
    stop: async () => {
      await stopServices()
      await livekit.stop()
      await worker.stop()
      await database.drop()
    },
  }
}

/** What no log may hold: secrets, tokens, whole phone numbers. */
export const unspeakable: ReadonlyArray<string> = [
  apiSecret,
  coreSecret,
  adminToken,
  // How every token begins.
  "eyJhbG",
  ...[...Object.values(numbers), callerPrefix].map((number) => number.slice(1)),
]
