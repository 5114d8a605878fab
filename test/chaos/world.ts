// LiveKit and the callers: who is in which room, who answers whom, and the webhook for all of it.

import { randomBytes } from "node:crypto"
import { asUsual, type LiveKitApi, startLiveKitApi } from "../support/livekit-api.ts"
import { apiKey, apiSecret } from "../support/service.ts"
import { sleep } from "../support/waiting.ts"
import { type Random, randomOf } from "./random.ts"
import type { Sender } from "./sender.ts"

/** The agent that answers what is dialed for one, and the one that takes what no worker does. */
export const agentName = "telephony-agent"

/** What a call does of its own accord, in ms of LiveKit's time. */
export interface CallPlan {
  readonly dialed: string
  /** How long the caller lets it ring; LiveKit itself gives up after three minutes. */
  readonly patienceMs: number
  readonly talkMs: number
  /** How often each of its events is delivered at once. */
  readonly copies: number
}

/** Somebody got the call. */
export interface Handover {
  readonly at: number
  readonly taker: string
  readonly key: string
  /** The last time LiveKit had said that the caller was alone, if it had. */
  readonly aloneAt: number | undefined
}

/** A call, and what really became of it. */
export interface SimCall {
  readonly id: string
  readonly caller: string
  readonly plan: CallPlan
  readonly room: { readonly name: string; readonly sid: string; readonly creationTimeMs: number }
  readonly handovers: Array<Handover>
  /** When its join was first tried to be delivered. */
  announcedAt: number | undefined
  /** Whether any replica has answered its join, whatever it said. */
  heard: boolean
  sid: string
  joinedAtMs: number
  state: "coming" | "ringing" | "talking" | "left"
  answeredAt: number | undefined
  leftAt: number
  /** Somebody joined within the second in which the caller left: LiveKit's times do not say who was first. */
  touchAndGo: boolean
  /** A worker has turned the caller away. */
  removed: boolean
  /** An event of it was given up by the sender, or was lost with LiveKit. */
  eventsLost: boolean
  aloneAt: number | undefined
  /** Answerers that were there at the same time: more than one talk over each other. */
  mostAnswerers: number
  finished: boolean
}

const madeUp = (prefix: string) => `${prefix}_${randomBytes(9).toString("hex").slice(0, 12)}`
const seconds = (ms: number) => String(Math.floor(ms / 1000))

/** LiveKit's own limit on ringing. */
export const longestRingMs = 180_000

export interface WorldOptions {
  readonly seed: number
  /** How long after its last participant a room ends; LiveKit's default is 20 s. */
  readonly departureMs: number
}

export class World {
  readonly calls: Array<SimCall> = []
  private readonly byId = new Map<string, SimCall>()
  private readonly byRoom = new Map<string, SimCall>()
  private readonly random: Random
  private readonly departureMs: number
  readonly livekit: LiveKitApi
  private readonly sender: Sender

  private constructor(livekit: LiveKitApi, sender: Sender, { departureMs, seed }: WorldOptions) {
    this.livekit = livekit
    this.sender = sender
    this.departureMs = departureMs
    this.random = randomOf(seed, "world")
    livekit.onJoin = (room, { identity, joinedAtMs, kind, sid }) => {
      const call = this.byRoom.get(room.name)
      if (call !== undefined && kind === "AGENT") this.answered(call, { identity, joinedAtMs, sid })
    }
    livekit.behaviour["ListParticipants"] = (work, response) => {
      this.noteWhoIsThere(String(livekit.requests.at(-1)?.body?.["room"]))
      return asUsual(work, response)
    }
    livekit.behaviour["CreateDispatch"] = (work, response) => {
      const before = livekit.dispatches.length
      work()
      const made = livekit.dispatches[before]
      const call = made && this.byRoom.get(made.room)
      if (call !== undefined && made !== undefined) this.handedOver(call, `agent ${made.agentName}`, made.id)
      return asUsual(work, response)
    }
  }

  static async start(sender: Sender, options: WorldOptions): Promise<World> {
    const livekit = await startLiveKitApi({
      key: apiKey,
      secret: apiSecret,
      runningAgents: [agentName],
      joinDelayMs: 500,
    })
    return new World(livekit, sender, options)
  }

  find(callId: string): SimCall | undefined {
    return this.byId.get(callId)
  }

  /** Whose room it is; `undefined` for one of nobody's. */
  inRoom(room: string): SimCall | undefined {
    return this.byRoom.get(room)
  }

  /** A caller comes, and goes when they have talked or have had enough. */
  async arrive(plan: CallPlan): Promise<void> {
    const number = `+1555${String(this.calls.length).padStart(7, "0")}`
    const name = `call-_${number}_${madeUp("r")}`
    const call: SimCall = {
      id: madeUp("SCL"),
      caller: number,
      plan,
      room: { name, sid: madeUp("RM"), creationTimeMs: Date.now() },
      handovers: [],
      announcedAt: undefined,
      heard: false,
      sid: madeUp("PA"),
      joinedAtMs: 0,
      state: "coming",
      answeredAt: undefined,
      leftAt: 0,
      touchAndGo: false,
      removed: false,
      eventsLost: false,
      aloneAt: undefined,
      mostAnswerers: 0,
      finished: false,
    }
    this.calls.push(call)
    this.byId.set(call.id, call)
    this.byRoom.set(name, call)
    this.livekit.addRoom(name, call.room.sid)
    this.emitRoom(call, "room_started")
    await sleep(this.random.between(15, 45))
    this.joins(call)
    setTimeout(() => call.answeredAt === undefined && this.leaves(call, "CLIENT_INITIATED"), plan.patienceMs)
  }

  /** A worker, or LiveKit with an agent, got the call. */
  handedOver(call: SimCall, taker: string, key: string) {
    call.handovers.push({ at: Date.now(), taker, key, aloneAt: call.aloneAt })
  }

  /** An agent of a worker's joins, unless the caller has gone by then. */
  agentComes(call: SimCall, afterMs: number) {
    setTimeout(() => {
      if (call.state !== "ringing" && call.state !== "talking") return
      this.livekit.addParticipant(call.room.name, { identity: madeUp("agent"), kind: "AGENT" })
    }, afterMs)
  }

  /** A worker turns the caller away. */
  remove(call: SimCall) {
    call.removed = true
    this.leaves(call, "PARTICIPANT_REMOVED")
  }

  /** Killed and started again: queues are lost, and whoever is still there joins anew, all within the same second. */
  async crash() {
    this.sender.crash()
    this.livekit.crash()
    await this.livekit.stop()
    await sleep(this.random.between(500, 2_000))
    await this.livekit.restart()
    for (const call of this.calls) {
      if (call.finished) continue
      if (call.state === "left") {
        this.livekit.endRoom(call.room.name)
        call.finished = true
      } else if (call.state !== "coming") this.comesBack(call)
    }
  }

  private comesBack(call: SimCall) {
    const agents = this.answerers(call)
    this.livekit.addRoom(call.room.name, call.room.sid)
    this.emitRoom(call, "room_started")
    call.sid = madeUp("PA")
    this.joins(call)
    // Not every agent finds its way back; those who do not are named for good.
    for (const { identity } of agents) {
      if (!this.random.chance(0.7)) continue
      setTimeout(
        () => {
          if (call.state !== "talking") return
          this.livekit.addParticipant(call.room.name, { identity, kind: "AGENT" })
        },
        this.random.between(0, 1_500),
      )
    }
  }

  /** Also those whom a crash took away. */
  private agentsOf(call: SimCall) {
    return this.livekit.participants(call.room.name).filter(({ kind }) => kind === "AGENT")
  }

  // Whoever joined before LiveKit came back did so before the caller came back.
  private answerers(call: SimCall) {
    return this.agentsOf(call).filter(({ joinedAtMs }) => joinedAtMs >= call.joinedAtMs - 2_000)
  }

  private noteWhoIsThere(room: string) {
    const call = this.byRoom.get(room)
    if (call === undefined || call.state === "coming" || call.state === "left") return
    if (this.answerers(call).length === 0) call.aloneAt = Date.now()
  }

  private joins(call: SimCall) {
    call.joinedAtMs = Date.now()
    if (call.state === "coming") call.state = "ringing"
    this.livekit.addParticipant(call.room.name, {
      identity: `sip_${call.caller}`,
      kind: "SIP",
      joinedAtMs: call.joinedAtMs,
      attributes: this.attributes(call),
    })
    this.emitCaller(call, "participant_joined")
  }

  private attributes(call: SimCall, status = call.state === "talking" ? "active" : "ringing") {
    return {
      "sip.callID": call.id,
      "sip.trunkID": "ST_in",
      "sip.ruleID": "SDR_1",
      "sip.phoneNumber": call.caller,
      "sip.trunkPhoneNumber": call.plan.dialed,
      "sip.callStatus": status,
    }
  }

  private answered(
    call: SimCall,
    agent: { readonly identity: string; readonly joinedAtMs: number; readonly sid: string },
  ) {
    call.mostAnswerers = Math.max(call.mostAnswerers, this.answerers(call).length)
    this.emit(call, "participant_joined", { ...agent, kind: "AGENT", state: "ACTIVE" })
    if (call.state === "left" && agent.joinedAtMs - call.leftAt < 1_000) call.touchAndGo = true
    if (call.answeredAt !== undefined || call.state !== "ringing") return
    call.answeredAt = Date.now()
    call.state = "talking"
    const byCaller = this.random.chance(0.7)
    setTimeout(
      () => this.leaves(call, byCaller ? "CLIENT_INITIATED" : "PARTICIPANT_REMOVED"),
      call.plan.talkMs,
    )
  }

  private leaves(call: SimCall, disconnectReason: string) {
    if (call.state === "left" || call.state === "coming") return
    const talked = call.state === "talking"
    call.state = "left"
    call.leftAt = Date.now()
    const hungUp = disconnectReason === "CLIENT_INITIATED" && (talked || call.plan.patienceMs < longestRingMs)
    this.livekit.removeParticipant(call.room.name, `sip_${call.caller}`)
    this.emitCaller(call, "participant_left", {
      state: "DISCONNECTED",
      disconnectReason,
      attributes: this.attributes(call, hungUp ? "hangup" : talked ? "active" : "ringing"),
    })
    setTimeout(() => this.empties(call), 300)
    setTimeout(() => this.finishes(call), this.departureMs)
  }

  private empties(call: SimCall) {
    for (const { identity, joinedAtMs, sid } of this.agentsOf(call)) {
      this.livekit.removeParticipant(call.room.name, identity)
      const left = { identity, joinedAtMs, sid, kind: "AGENT", state: "DISCONNECTED" }
      this.emit(call, "participant_left", { ...left, disconnectReason: "CLIENT_INITIATED" })
    }
  }

  private finishes(call: SimCall) {
    if (call.finished) return
    this.empties(call)
    call.finished = true
    this.livekit.endRoom(call.room.name)
    this.emitRoom(call, "room_finished")
  }

  private emitCaller(call: SimCall, event: string, more: object = {}) {
    this.emit(call, event, {
      sid: call.sid,
      identity: `sip_${call.caller}`,
      name: `Phone ${call.caller}`,
      state: "ACTIVE",
      joinedAtMs: call.joinedAtMs,
      version: 3,
      kind: "SIP",
      permission: { canSubscribe: true, canPublish: true, canPublishData: true },
      attributes: this.attributes(call),
      ...more,
    })
  }

  private emit(
    call: SimCall,
    event: string,
    participant: Readonly<Record<string, unknown>> & { readonly joinedAtMs: number },
  ) {
    const joinedAt = seconds(participant.joinedAtMs)
    const joinedAtMs = String(participant.joinedAtMs)
    this.emitRoom(call, event, { participant: { ...participant, joinedAt, joinedAtMs } })
  }

  private emitRoom(call: SimCall, event: string, more: object = {}) {
    const { creationTimeMs, name, sid } = call.room
    const room = {
      sid,
      name,
      emptyTimeout: 300,
      departureTimeout: 20,
      creationTime: seconds(creationTimeMs),
      creationTimeMs: String(creationTimeMs),
      turnPassword: "not-for-logs",
    }
    const body = { event, room, ...more, id: madeUp("EV"), createdAt: seconds(Date.now()) }
    this.sender.emit(body, call.plan.copies)
  }
}
