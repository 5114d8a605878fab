// One session per LiveKit room.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { cursorOf, Limit, pageOf, Term, Time, TimeTextKey } from "./common.ts"

const Status = Schema.Literals(["ready", "live", "stopped"])

export const Session = Schema.Struct({
  id: Schema.String.annotate({ description: "The room's sid, else its name" }),
  room_sid: Schema.String,
  room_name: Schema.String,
  status: Status,
  started_at: Schema.NullOr(Time),
  restarted_at: Schema.NullOr(Time).annotate({ description: "LiveKit had crashed, and started it again" }),
  ended_at: Schema.NullOr(Time),
  created_at: Time,
})

const Cursor = cursorOf(TimeTextKey)

export const SessionsGroup = HttpApiGroup.make("sessions").add(
  HttpApiEndpoint.get("list", "/sessions", {
    query: {
      limit: Limit,
      cursor: Schema.optionalKey(Cursor),
      status: Schema.optionalKey(Status),
      room_name: Schema.optionalKey(Term),
    },
    success: pageOf(Session, Cursor),
  }),
  HttpApiEndpoint.get("get", "/sessions/:id", { params: { id: Term }, success: Session }),
)
