// One session per LiveKit room.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, OpenApi } from "effect/http-api"
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
}).annotate({ identifier: "Session", description: "The session of a LiveKit room" })

const Cursor = cursorOf(TimeTextKey)

export const SessionsGroup = HttpApiGroup.make("sessions")
  .add(
    HttpApiEndpoint.get("list", "/sessions", {
      query: {
        limit: Limit,
        cursor: Schema.optionalKey(Cursor),
        status: Schema.optionalKey(Status),
        room_name: Schema.optionalKey(Term),
      },
      success: pageOf("SessionPage", Session, Cursor),
    }).annotate(OpenApi.Summary, "Sessions, newest first"),
    HttpApiEndpoint.get("get", "/sessions/:id", { params: { id: Term }, success: Session }).annotate(
      OpenApi.Summary,
      "One session, by the room's sid or name",
    ),
  )
  .annotate(OpenApi.Description, "What LiveKit says of each room.")
