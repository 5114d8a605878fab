// LiveKit's API on a real socket: Twirp over JSON as livekit-server 1.13 speaks it, with the rooms in memory.

import { createHmac, randomBytes } from "node:crypto"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { onFreePort } from "./ports.ts"
import { sleep } from "./waiting.ts"

// ---- Twirp: errors, and what a service is made of

const statuses = {
  canceled: 408,
  unknown: 500,
  invalid_argument: 400,
  malformed: 400,
  deadline_exceeded: 408,
  not_found: 404,
  bad_route: 404,
  already_exists: 409,
  permission_denied: 403,
  unauthenticated: 401,
  resource_exhausted: 429,
  failed_precondition: 412,
  aborted: 409,
  out_of_range: 400,
  unimplemented: 501,
  internal: 500,
  unavailable: 503,
  data_loss: 500,
} as const

export type TwirpCode = keyof typeof statuses

/** Thrown by a method: the error it answers. */
export class TwirpFailure extends Error {
  readonly code: TwirpCode
  constructor(code: TwirpCode, message: string) {
    super(message)
    this.code = code
  }
}

/** The fields of a request's message by their camelCase names, in whichever spelling they came. */
export type TwirpRequest = Readonly<Record<string, unknown>>

/** What a verified token permits. */
export interface Grants {
  readonly video: TwirpRequest
  readonly sip: TwirpRequest
}

export interface TwirpMethod {
  readonly permits: (grants: Grants, request: TwirpRequest) => boolean
  /** Does the work and returns the answer's message, with the names that the proto file has. */
  readonly work: (request: TwirpRequest) => object
}

/** A service, method by method; its name is the one in its URLs, like `livekit.RoomService`. */
export type TwirpService = Readonly<Record<string, TwirpMethod>>

export interface Answer {
  readonly status: number
  readonly contentType: string
  readonly body: string
}

const json = (status: number, message: object): Answer => ({
  status,
  contentType: "application/json",
  body: JSON.stringify(message),
})

const failed = (code: TwirpCode, msg: string): Answer => json(statuses[code], { code, msg })

/** A field of a request as a text, empty where it is missing. */
export const textOf = (request: TwirpRequest, field: string): string => String(request[field] ?? "")

const camel = (name: string) => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

// The keys of a map are data.
const maps = new Set(["attributes"])

const inCamelCase = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(inCamelCase)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [camel(name), maps.has(name) ? field : inCamelCase(field)]),
  )
}

// ---- Ways to behave

/** Answers one request. `work` does what was asked, the first time it is called, and says what to answer. */
export type Behaviour = (work: () => Answer, response: ServerResponse) => void | Promise<void>

const send = (response: ServerResponse, { body, contentType, status }: Answer) => {
  response.writeHead(status, { "content-type": contentType }).end(body)
}

/** Does the work and answers: what every method does unless told otherwise. */
export const asUsual: Behaviour = (work, response) => send(response, work())

/** Answers an error of Twirp's without doing the work. */
export const refuse =
  (code: TwirpCode, msg: string = code): Behaviour =>
  (_, response) =>
    send(response, failed(code, msg))

/** Answers a status and a text without doing the work, as a proxy would. */
export const refusePlainly =
  (status: number, body = "", contentType = "text/plain; charset=utf-8"): Behaviour =>
  (_, response) =>
    send(response, { status, contentType, body })

/** Neither does the work nor answers. */
export const hang: Behaviour = () => {}

/** Does the work and never answers. */
export const workAndHang: Behaviour = (work) => {
  work()
}

/** Drops the connection, with nothing done. */
export const dropBefore: Behaviour = (_, response) => {
  response.socket?.destroy()
}

/** Does the work and drops the connection. */
export const dropAfter: Behaviour = (work, response) => {
  work()
  response.socket?.destroy()
}

/** Does the work and answers 200 with exactly this body. */
export const answerBody =
  (body: string): Behaviour =>
  (work, response) => {
    work()
    send(response, { status: 200, contentType: "application/json", body })
  }

/** Does the work, answers 200, and drops the connection within the body. */
export const cutOff: Behaviour = (work, response) => {
  work()
  response.writeHead(200, { "content-type": "application/json", "content-length": "1000" })
  response.write('{"id":', () => setTimeout(() => response.socket?.destroy(), 20))
}

/** Waits, and then behaves. */
export const later =
  (ms: number, behaviour: Behaviour = asUsual): Behaviour =>
  async (work, response) => {
    await sleep(ms)
    await behaviour(work, response)
  }

/** Each request takes the next one; those after the last behave as usual. */
export const inTurn = (...behaviours: ReadonlyArray<Behaviour>): Behaviour => {
  const left = [...behaviours]
  return (work, response) => (left.shift() ?? asUsual)(work, response)
}

// ---- What LiveKit knows

export interface ApiParticipant {
  readonly sid: string
  readonly identity: string
  readonly kind: string
  readonly joinedAtMs: number
  readonly attributes: Readonly<Record<string, string>>
}

/** Who joins; the sid is made up. */
export interface Joining {
  readonly identity: string
  readonly kind: "STANDARD" | "INGRESS" | "EGRESS" | "SIP" | "AGENT"
  readonly joinedAtMs?: number
  readonly attributes?: Readonly<Record<string, string>>
}

export interface ApiRoom {
  readonly name: string
  readonly sid: string
  readonly creationTimeMs: number
}

export interface ApiDispatch {
  readonly id: string
  readonly room: string
  readonly agentName: string
  readonly metadata: string
  readonly createdAtMs: number
}

type OnJoin = (room: ApiRoom, participant: ApiParticipant) => void

interface Present extends ApiParticipant {
  /** Who brought it here, where a dispatch did. */
  readonly dispatch: string | undefined
  /** LiveKit crashed since: it is still named, and nothing reaches it. */
  ghost: boolean
}

interface RoomState extends ApiRoom {
  readonly present: Map<string, Present>
  readonly dispatches: Map<string, ApiDispatch>
  /** Whether a server runs it. After a crash it is known until somebody joins it again, and that is all. */
  served: boolean
}

const madeUp = (prefix: string) => `${prefix}_${randomBytes(9).toString("base64url").replace(/[-_]/g, "x")}`

const nobodyServes = () => new TwirpFailure("unavailable", "no response from servers")

/** Rooms, who is in them, and the agents that are sent there. */
class Rooms {
  readonly rooms = new Map<string, RoomState>()
  readonly created: Array<ApiDispatch> = []
  readonly ghostRooms: Array<string> = []
  readonly runningAgents: Set<string>
  joinDelayMs: number
  onJoin: OnJoin = () => {}
  private readonly onTheirWay = new Set<NodeJS.Timeout>()

  constructor(runningAgents: ReadonlyArray<string>, joinDelayMs: number) {
    this.runningAgents = new Set(runningAgents)
    this.joinDelayMs = joinDelayMs
  }

  open(name: string, sid = madeUp("RM")): RoomState {
    const known = this.rooms.get(name)
    if (known?.served) return known
    const room: RoomState = known ?? {
      name,
      sid,
      creationTimeMs: Date.now(),
      present: new Map(),
      dispatches: new Map(),
      served: true,
    }
    room.served = true
    this.rooms.set(name, room)
    // A room that was asked for no agent gets one dispatch that any nameless agent answers.
    if (known === undefined) this.dispatch(room, "", "")
    return room
  }

  join(room: RoomState, joining: Joining, dispatch?: string): ApiParticipant {
    const participant: Present = {
      sid: madeUp("PA"),
      identity: joining.identity,
      kind: joining.kind,
      joinedAtMs: joining.joinedAtMs ?? Date.now(),
      attributes: joining.attributes ?? {},
      dispatch,
      ghost: false,
    }
    room.present.set(joining.identity, participant)
    this.onJoin(room, participant)
    return participant
  }

  /** As `AgentDispatchService` does it: first the room, wherever it went, then the agent. */
  createDispatch(name: string, agentName: string, metadata: string): ApiDispatch {
    if (!this.rooms.has(name)) this.ghostRooms.push(name)
    const dispatch = this.dispatch(this.open(name), agentName, metadata)
    this.created.push(dispatch)
    return dispatch
  }

  deleteDispatch(name: string, id: string): ApiDispatch {
    const room = this.served(name)
    const dispatch = room.dispatches.get(id)
    if (dispatch === undefined) throw new TwirpFailure("not_found", "dispatch ID not found")
    room.dispatches.delete(id)
    for (const { dispatch: by, identity } of room.present.values())
      if (by === id) room.present.delete(identity)
    return dispatch
  }

  served(name: string): RoomState {
    const room = this.rooms.get(name)
    if (room?.served !== true) throw nobodyServes()
    return room
  }

  participant(name: string, identity: string): Present {
    const participant = this.rooms.get(name)?.present.get(identity)
    if (participant === undefined) throw new TwirpFailure("not_found", "participant does not exist")
    return participant
  }

  crash(): void {
    this.forgetJobs()
    for (const room of this.rooms.values()) {
      room.served = false
      for (const participant of room.present.values()) participant.ghost = true
    }
  }

  forgetJobs(): void {
    for (const timer of this.onTheirWay) clearTimeout(timer)
    this.onTheirWay.clear()
  }

  private dispatch(room: RoomState, agentName: string, metadata: string): ApiDispatch {
    const dispatch = { id: madeUp("AD"), room: room.name, agentName, metadata, createdAtMs: Date.now() }
    room.dispatches.set(dispatch.id, dispatch)
    if (!this.runningAgents.has(agentName)) return dispatch
    const timer = setTimeout(() => {
      this.onTheirWay.delete(timer)
      if (this.rooms.get(room.name) === room && room.dispatches.has(dispatch.id)) {
        const attributes = { "lk.agent.name": agentName, "lk.agent_name": agentName }
        this.join(room, { identity: `agent-${madeUp("AJ")}`, kind: "AGENT", attributes }, dispatch.id)
      }
    }, this.joinDelayMs)
    this.onTheirWay.add(timer)
    return dispatch
  }
}

// ---- The messages, as protojson writes them: every field, int64 as texts, enums by name

const dispatchMessage = ({ agentName, createdAtMs, id, metadata, room }: ApiDispatch) => ({
  id,
  agent_name: agentName,
  room,
  metadata,
  // Seconds pass before a job shows here; whether an agent answers is seen in the participants.
  state: { jobs: [], created_at: `${createdAtMs}000000`, deleted_at: "0" },
  restart_policy: "JRP_ON_FAILURE",
  deployment: "",
  attributes: {},
})

const participantMessage = ({ attributes, identity, joinedAtMs, kind, sid }: ApiParticipant) => ({
  sid,
  identity,
  state: "ACTIVE",
  tracks: [],
  metadata: "",
  joined_at: String(Math.floor(joinedAtMs / 1000)),
  joined_at_ms: String(joinedAtMs),
  name: "",
  version: 3,
  permission: null,
  region: "",
  is_publisher: true,
  kind,
  attributes,
  disconnect_reason: "UNKNOWN_REASON",
  kind_details: [],
  data_tracks: [],
  client_protocol: 0,
  capabilities: [],
})

const roomMessage = ({ creationTimeMs, name, present, sid }: RoomState) => ({
  sid,
  name,
  empty_timeout: 300,
  departure_timeout: 20,
  max_participants: 0,
  creation_time: String(Math.floor(creationTimeMs / 1000)),
  creation_time_ms: String(creationTimeMs),
  turn_password: "",
  enabled_codecs: [],
  metadata: "",
  num_participants: present.size,
  num_publishers: present.size,
  active_recording: false,
  version: null,
})

// ---- The services

const adminOfRoom = ({ video }: Grants, request: TwirpRequest): boolean =>
  video["roomAdmin"] === true && (video["room"] ?? "") === textOf(request, "room")

const agentDispatchService = (rooms: Rooms): TwirpService => ({
  CreateDispatch: {
    permits: adminOfRoom,
    work: (request) =>
      dispatchMessage(
        rooms.createDispatch(
          textOf(request, "room"),
          textOf(request, "agentName"),
          textOf(request, "metadata"),
        ),
      ),
  },
  ListDispatch: {
    permits: adminOfRoom,
    work: (request) => {
      const id = textOf(request, "dispatchId")
      const all = [...rooms.served(textOf(request, "room")).dispatches.values()]
      return {
        agent_dispatches: all.filter((dispatch) => id === "" || dispatch.id === id).map(dispatchMessage),
      }
    },
  },
  DeleteDispatch: {
    permits: adminOfRoom,
    work: (request) =>
      dispatchMessage(rooms.deleteDispatch(textOf(request, "room"), textOf(request, "dispatchId"))),
  },
})

const roomService = (rooms: Rooms): TwirpService => ({
  ListParticipants: {
    permits: adminOfRoom,
    work: (request) => {
      const room = rooms.rooms.get(textOf(request, "room"))
      return { participants: [...(room?.present.values() ?? [])].map(participantMessage) }
    },
  },
  GetParticipant: {
    permits: adminOfRoom,
    work: (request) =>
      participantMessage(rooms.participant(textOf(request, "room"), textOf(request, "identity"))),
  },
  RemoveParticipant: {
    permits: adminOfRoom,
    work: (request) => {
      const participant = rooms.participant(textOf(request, "room"), textOf(request, "identity"))
      if (participant.ghost) throw nobodyServes()
      rooms.rooms.get(textOf(request, "room"))?.present.delete(participant.identity)
      return {}
    },
  },
  ListRooms: {
    permits: ({ video }) => video["roomList"] === true,
    work: ({ names }) => {
      const all = [...rooms.rooms.values()]
      const asked = Array.isArray(names) && names.length > 0 ? names : all.map(({ name }) => name)
      return { rooms: all.filter(({ name }) => asked.includes(name)).map(roomMessage) }
    },
  },
  DeleteRoom: {
    permits: ({ video }) => video["roomCreate"] === true,
    work: (request) => {
      const existed = rooms.rooms.delete(textOf(request, "room"))
      if (!existed) throw new TwirpFailure("not_found", "requested room does not exist")
      return {}
    },
  },
})

// ---- Tokens

const refusedToken = (why: string): Answer => ({
  status: 401,
  contentType: "text/plain; charset=utf-8",
  body: why,
})

const part = (token: string, index: number): TwirpRequest | undefined => {
  try {
    return JSON.parse(Buffer.from(token.split(".")[index] ?? "", "base64url").toString("utf8"))
  } catch {
    return undefined
  }
}

const objectOf = (value: unknown): TwirpRequest =>
  typeof value === "object" && value !== null ? Object.fromEntries(Object.entries(value)) : {}

const wrongWith = (token: string, secret: string): string | undefined => {
  const claims = part(token, 1)
  const signed = token.slice(0, token.lastIndexOf("."))
  const signature = createHmac("sha256", secret).update(signed).digest("base64url")
  if (token !== `${signed}.${signature}`) return "token signature is invalid"
  const now = Date.now() / 1000
  if (typeof claims?.["exp"] !== "number") return "token is missing required claim: exp claim is required"
  if (claims["exp"] + 60 < now) return "token has invalid claims: token is expired"
  if (Number(claims["nbf"] ?? 0) - 60 > now) return "token has invalid claims: token is not valid yet"
  return undefined
}

/** What the token permits, or the answer to one that is none. Without any token nothing is permitted. */
const authenticate = (authorization: string | undefined, key: string, secret: string): Grants | Answer => {
  if (authorization === undefined) return { video: {}, sip: {} }
  if (!authorization.startsWith("Bearer ")) {
    return refusedToken("invalid authorization header. Must start with Bearer ")
  }
  const token = authorization.slice("Bearer ".length)
  const claims = part(token, 1)
  if (claims === undefined || part(token, 0)?.["alg"] !== "HS256") {
    return refusedToken("invalid authorization token")
  }
  if (claims["iss"] !== key) return refusedToken(`invalid API key: ${claims["iss"]}`)
  const wrong = wrongWith(token, secret)
  // Until August 2026 LiveKit showed the token to whoever had sent it.
  if (wrong !== undefined) return refusedToken(`invalid token: ${token}, error: ${wrong}`)
  return { video: objectOf(claims["video"]), sip: objectOf(claims["sip"]) }
}

// ---- The server

/** One request that came, whatever became of it. */
export interface ApiRequest {
  readonly method: string
  readonly path: string
  /** The message as it was sent; `undefined` where it was no JSON object. */
  readonly body: TwirpRequest | undefined
  readonly headers: Readonly<Record<string, string>>
  /** Whether its connection was closed before the answer was complete. */
  readonly brokenOff: boolean
}

export interface LiveKitApiOptions {
  readonly key: string
  readonly secret: string
  /** The agents somebody runs: a dispatch of any other is accepted just so, and brings nobody. */
  readonly runningAgents?: ReadonlyArray<string>
  /** How long after its dispatch an agent joins, 20 ms; really it is half a second. */
  readonly joinDelayMs?: number
  /** LiveKit answers with the proto file's names; what reads it must take both. */
  readonly names?: "snake_case" | "camelCase"
  /** More services, like `livekit.SIP`, beside the two that are built in. */
  readonly services?: Readonly<Record<string, TwirpService>>
}

export interface LiveKitApi {
  /** For `LIVEKIT_URL`. */
  readonly url: string
  readonly requests: ReadonlyArray<ApiRequest>
  /** Those that were created, without LiveKit's own. */
  readonly dispatches: ReadonlyArray<ApiDispatch>
  /** The rooms that a dispatch made, for an agent alone. */
  readonly ghostRooms: ReadonlyArray<string>
  readonly runningAgents: Set<string>
  /** By the name of the method; may be changed at any time. */
  readonly behaviour: Record<string, Behaviour | undefined>
  joinDelayMs: number
  /** Called for everybody who joins, so that a test can send the webhook. */
  onJoin: OnJoin
  readonly rooms: () => ReadonlyArray<ApiRoom>
  readonly participants: (room: string) => ReadonlyArray<ApiParticipant>
  readonly addRoom: (name: string, sid?: string) => ApiRoom
  /** Joins, making the room if there is none. */
  readonly addParticipant: (room: string, joining: Joining) => ApiParticipant
  /** Leaves cleanly, also as a ghost. The room stays, as it does for another 20 s. */
  readonly removeParticipant: (room: string, identity: string) => void
  readonly endRoom: (name: string) => void
  /** Killed and started again: connections break, and whoever was in a room is named as if still there. */
  readonly crash: () => void
  /** Stops listening and breaks every connection. */
  readonly stop: () => Promise<void>
  /** Listens again on the same port. */
  readonly restart: () => Promise<void>
}

const read = async (request: IncomingMessage): Promise<string> => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString("utf8")
}

const parse = (raw: string): TwirpRequest | undefined => {
  try {
    const message: unknown = JSON.parse(raw)
    return typeof message === "object" && message !== null && !Array.isArray(message)
      ? objectOf(message)
      : undefined
  } catch {
    return undefined
  }
}

const spelled = (message: TwirpRequest): TwirpRequest =>
  Object.fromEntries(Object.entries(message).map(([name, value]) => [camel(name), value]))

type Handler = (request: IncomingMessage, message: TwirpRequest | undefined) => Answer

/** Finds the method and checks everything that comes before its work, in the order LiveKit does. */
const handlerOf = (
  services: Readonly<Record<string, TwirpService>>,
  { key, names = "snake_case", secret }: LiveKitApiOptions,
): Handler => {
  const perform = (method: TwirpMethod, request: TwirpRequest) => {
    try {
      const message = method.work(request)
      return json(200, names === "camelCase" ? objectOf(inCamelCase(message)) : message)
    } catch (error) {
      if (error instanceof TwirpFailure) return failed(error.code, error.message)
      throw error
    }
  }
  return (request, message) => {
    const grants = authenticate(request.headers.authorization, key, secret)
    if ("status" in grants) return grants
    const [, prefix, service = "", name = ""] = (request.url ?? "").split("/")
    const method = services[service]?.[name]
    if (request.method !== "POST" || prefix !== "twirp" || method === undefined) {
      return failed("bad_route", `no handler for path "${request.url}"`)
    }
    if (!/^application\/json\b/.test(request.headers["content-type"] ?? "")) {
      return failed("bad_route", `unexpected Content-Type: "${request.headers["content-type"]}"`)
    }
    if (message === undefined) return failed("malformed", "the json request could not be decoded")
    const asked = spelled(message)
    // LiveKit's word for a missing permission is unauthenticated, not permission_denied.
    if (!method.permits(grants, asked)) return failed("unauthenticated", "permissions denied")
    return perform(method, asked)
  }
}

/** Calls once, however often it is asked. */
const once = <A>(make: () => A): (() => A) => {
  let made: { readonly value: A } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}

/** Starts LiveKit's API on a free port of the loopback. */
export const startLiveKitApi = async (options: LiveKitApiOptions): Promise<LiveKitApi> => {
  const rooms = new Rooms(options.runningAgents ?? [], options.joinDelayMs ?? 20)
  const handle = handlerOf(
    {
      "livekit.AgentDispatchService": agentDispatchService(rooms),
      "livekit.RoomService": roomService(rooms),
      ...options.services,
    },
    options,
  )
  const requests: Array<ApiRequest> = []
  const behaviour: Record<string, Behaviour | undefined> = {}

  const onRequest = async (request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? ""
    const headers = Object.entries(request.headers).map(([name, value]) => [name, String(value)])
    const message = parse(await read(request))
    const seen = {
      method: path.slice(path.lastIndexOf("/") + 1),
      path,
      body: message,
      headers: Object.fromEntries(headers),
      brokenOff: false,
    }
    requests.push(seen)
    // Each request has its own connection: a kept one that is just closing looks like LiveKit dropping it.
    response.setHeader("connection", "close")
    response.on("close", () => {
      seen.brokenOff = !response.writableFinished
    })
    await (behaviour[seen.method] ?? asUsual)(
      once(() => handle(request, message)),
      response,
    )
  }

  const listen = (port: number) =>
    new Promise<Server>((resolve, reject) => {
      const listening = createServer((request, response) => {
        onRequest(request, response).catch(() => response.destroy())
      })
      listening.once("error", reject)
      listening.listen(port, "127.0.0.1", () => resolve(listening))
    })
  let server = await onFreePort(listen)
  const { port } = server.address() as AddressInfo

  return {
    url: `ws://127.0.0.1:${port}`,
    requests,
    dispatches: rooms.created,
    ghostRooms: rooms.ghostRooms,
    runningAgents: rooms.runningAgents,
    behaviour,
    get joinDelayMs() {
      return rooms.joinDelayMs
    },
    set joinDelayMs(ms) {
      rooms.joinDelayMs = ms
    },
    get onJoin() {
      return rooms.onJoin
    },
    set onJoin(onJoin) {
      rooms.onJoin = onJoin
    },
    rooms: () => [...rooms.rooms.values()],
    participants: (room) => [...(rooms.rooms.get(room)?.present.values() ?? [])],
    addRoom: (name, sid) => rooms.open(name, sid),
    addParticipant: (room, joining) => rooms.join(rooms.open(room), joining),
    removeParticipant: (room, identity) => {
      rooms.rooms.get(room)?.present.delete(identity)
    },
    endRoom: (name) => {
      rooms.rooms.delete(name)
    },
    crash: () => {
      rooms.crash()
      server.closeAllConnections()
    },
    stop: () =>
      new Promise((resolve) => {
        rooms.forgetJobs()
        server.close(() => resolve())
        server.closeAllConnections()
      }),
    restart: async () => {
      server = await listen(port)
    },
  }
}
