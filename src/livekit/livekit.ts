// LiveKit's rooms: who is in one, and an agent sent into it.

import { Context, Effect, Layer, Option } from "effect"
import { AgentDispatchClient, ParticipantInfo, RoomServiceClient } from "livekit-server-sdk"
import type { Settings } from "../config.ts"
import {
  type Caller,
  configuredCaller,
  type LiveKitError,
  LiveKitNotReached,
  malformedBody,
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
const kindField = ParticipantInfo.fields.findJsonName("kind")
const kindName = (kind: number): string =>
  (kindField?.kind === "enum" ? kindField.T.findNumber(kind)?.name : undefined) ?? String(kind)

const toParticipant = (info: ParticipantInfo): RoomParticipant => ({
  sid: info.sid,
  identity: info.identity,
  kind: kindName(info.kind),
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

const askedBy = ({ call, client }: Caller): LiveKitShape => ({
  configured: true,
  participants: (room, withinMs) =>
    Effect.map(
      call(within(withinMs), (request) => client(RoomServiceClient, request).listParticipants(room)),
      (found) => found.map(toParticipant),
    ),
  rooms: (names, withinMs) =>
    Effect.map(
      call(within(withinMs), (request) => client(RoomServiceClient, request).listRooms([...names])),
      (found) => found.map(({ name, sid }) => ({ name, sid })),
    ),
  dispatches: (room, withinMs) =>
    Effect.map(
      call(within(withinMs), (request) => client(AgentDispatchClient, request).listDispatch(room)),
      (found) =>
        found
          .filter(({ agentName }) => agentName !== "")
          .map(({ agentName, id }): AgentDispatch => ({ id, agentName })),
    ),
  createDispatch: (room, agentName, metadata, sending) =>
    call(sending, (request) =>
      client(AgentDispatchClient, request).createDispatch(room, agentName, { metadata }),
    ).pipe(
      Effect.map(({ id }): AgentDispatch => ({ id, agentName })),
      Effect.catchTag("LiveKitRefused", (refused) =>
        refused.code === malformedBody ? Effect.succeed({ id: "", agentName }) : Effect.fail(refused),
      ),
    ),
})

export class LiveKit extends Context.Service<LiveKit, LiveKitShape>()("switchhook/livekit/LiveKit") {
  /** The LiveKit of `LIVEKIT_URL`, asked with the first of our keys. */
  static readonly layer: Layer.Layer<LiveKit, never, Settings> = Layer.effect(
    LiveKit,
    Effect.map(configuredCaller, (caller) =>
      LiveKit.of(Option.match(caller, { onNone: () => notConfigured, onSome: askedBy })),
    ),
  )
}
