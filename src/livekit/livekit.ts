// LiveKit's rooms: who is in one, and an agent sent into it.

import { Context, Effect, Layer, Option } from "effect"
import type { AgentDispatchClient, ParticipantInfo, RoomServiceClient } from "livekit-server-sdk"
import type { Settings } from "../config.ts"
import {
  type Caller,
  configuredCaller,
  type LiveKitError,
  LiveKitNotReached,
  malformedBody,
  type Request,
  type Sending,
  within,
} from "./client.ts"

export { type LiveKitError, LiveKitNotReached, LiveKitRefused, LiveKitSilent } from "./client.ts"

/** Somebody in a room, or who was there when LiveKit crashed; `kind` by LiveKit's name for it, as in a webhook. */
export interface RoomParticipant {
  readonly sid: string
  readonly identity: string
  readonly kind: string
  readonly joinedAtMs: number
  readonly attributes: ReadonlyMap<string, string>
}

/** An agent that was asked into a room; not yet one that is there. */
export interface AgentDispatch {
  readonly id: string
  readonly agentName: string
}

// By way of the message: the package that exports the enum is no dependency of ours.
const kindName = (info: ParticipantInfo): string => {
  const field = info.getType().fields.findJsonName("kind")
  return (field?.kind === "enum" ? field.T.findNumber(info.kind)?.name : undefined) ?? String(info.kind)
}

const toParticipant = (info: ParticipantInfo): RoomParticipant => ({
  sid: info.sid,
  identity: info.identity,
  kind: kindName(info),
  joinedAtMs: Number(info.joinedAtMs) || Number(info.joinedAt) * 1000,
  attributes: new Map(Object.entries(info.attributes)),
})

interface LiveKitShape {
  /** Whether there is a LiveKit to ask; without one every call fails with `LiveKitNotReached`. */
  readonly configured: boolean
  /** Empty for a room that does not exist. Names those whom a crash of LiveKit took away, too. */
  readonly participants: (
    room: string,
    withinMs: number,
  ) => Effect.Effect<ReadonlyArray<RoomParticipant>, LiveKitError>
  /** Of these names those that LiveKit has a room of, with the room's sid. */
  readonly rooms: (
    names: ReadonlyArray<string>,
    withinMs: number,
  ) => Effect.Effect<ReadonlyArray<{ readonly name: string; readonly sid: string }>, LiveKitError>
  /**
   * Which agents were asked into the room, without LiveKit's own dispatch, whose agent name is empty. Refused as
   * `unavailable` where no server runs that room.
   */
  readonly dispatches: (
    room: string,
    withinMs: number,
  ) => Effect.Effect<ReadonlyArray<AgentDispatch>, LiveKitError>
  /**
   * Asks an agent into a room, once. Says yes although no such agent runs, and makes the room again if it is
   * gone. The status line alone decides: with a body that cannot be read the id is empty.
   */
  readonly createDispatch: (
    room: string,
    agentName: string,
    metadata: string,
    sending: Sending,
  ) => Effect.Effect<AgentDispatch, LiveKitError>
}

const notConfigured: LiveKitShape = {
  configured: false,
  participants: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  rooms: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  dispatches: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
  createDispatch: () => Effect.fail(new LiveKitNotReached({ reason: "not configured" })),
}

// A tenth of all that the service consists of, and not needed before LiveKit is asked for the first time.
const loadSdk = () => import("livekit-server-sdk")

const askedBy = ({ call, client }: Caller): LiveKitShape => {
  const rooms =
    <A>(question: (rooms: RoomServiceClient) => Promise<A>) =>
    async (request: Request) =>
      question(client((await loadSdk()).RoomServiceClient, request))
  const agents =
    <A>(question: (agents: AgentDispatchClient) => Promise<A>) =>
    async (request: Request) =>
      question(client((await loadSdk()).AgentDispatchClient, request))
  return {
    configured: true,
    participants: (room, withinMs) =>
      Effect.map(
        call(
          within(withinMs),
          rooms((client) => client.listParticipants(room)),
        ),
        (found) => found.map(toParticipant),
      ),
    rooms: (names, withinMs) =>
      Effect.map(
        call(
          within(withinMs),
          rooms((client) => client.listRooms([...names])),
        ),
        (found) => found.map(({ name, sid }) => ({ name, sid })),
      ),
    dispatches: (room, withinMs) =>
      Effect.map(
        call(
          within(withinMs),
          agents((client) => client.listDispatch(room)),
        ),
        (found) =>
          found
            .filter(({ agentName }) => agentName !== "")
            .map(({ agentName, id }): AgentDispatch => ({ id, agentName })),
      ),
    createDispatch: (room, agentName, metadata, sending) =>
      call(
        sending,
        agents((client) => client.createDispatch(room, agentName, { metadata })),
      ).pipe(
        Effect.map(({ id }): AgentDispatch => ({ id, agentName })),
        Effect.catchTag("LiveKitRefused", (refused) =>
          refused.code === malformedBody ? Effect.succeed({ id: "", agentName }) : Effect.fail(refused),
        ),
      ),
  }
}

export class LiveKit extends Context.Service<LiveKit, LiveKitShape>()("switchhook/livekit/LiveKit") {
  /** The LiveKit of `LIVEKIT_URL`, asked with the first of our keys. */
  static readonly layer: Layer.Layer<LiveKit, never, Settings> = Layer.effect(
    LiveKit,
    Effect.map(configuredCaller, (caller) =>
      LiveKit.of(Option.match(caller, { onNone: () => notConfigured, onSome: askedBy })),
    ),
  )

  /** Loads what asking takes, where there is a LiveKit to ask: before a call needs it, and after the start. */
  static readonly preload: Layer.Layer<never, never, LiveKit> = Layer.effectDiscard(
    Effect.flatMap(LiveKit, ({ configured }) =>
      Effect.forkScoped(configured ? Effect.promise(loadSdk) : Effect.void),
    ),
  )
}
