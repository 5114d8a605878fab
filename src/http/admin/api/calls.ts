// The calls, with everything that is known of each.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, OpenApi } from "effect/http-api"
import { cursorOf, Id, IdInput, Limit, NumberInput, pageOf, Term, Time, TimeInput } from "./common.ts"
import { Lead } from "./leads.ts"
import { Session } from "./sessions.ts"

const Text = Schema.NullOr(Schema.String)
const Ms = Schema.NullOr(Schema.Finite)
const When = Schema.NullOr(Time)

const summary = {
  id: Id,
  call_id: Schema.String.annotate({
    description: "What identifies the call for good: sip.callID where known",
  }),
  direction: Text,
  status: Text,
  state: Schema.String,
  outcome: Text,
  caller: Text,
  caller_e164: Text,
  dialed: Text,
  dialed_e164: Text,
  target: Text,
  worker: Text,
  agent_name: Text,
  attempts: Schema.Finite,
  tenant_id: Schema.NullOr(Id),
  campaign_id: Schema.NullOr(Id),
  did_id: Schema.NullOr(Id),
  lead_id: Schema.NullOr(Id),
  trunk_id: Text,
  room_name: Text,
  room_sid: Text,
  started_at: When,
  answered_at: When,
  ended_at: When,
  ring_ms: Ms,
  duration_ms: Ms,
  hung_up_by: Text,
  end_reason: Text,
  answerers: Schema.Finite,
  unanswered: Schema.Boolean.annotate({ description: "Handed over and accepted, and nobody has joined" }),
}

const CallSummary = Schema.Struct(summary).annotate({ identifier: "CallSummary" })

const Attempt = Schema.Struct({
  attempt: Schema.Finite,
  target: Schema.String,
  worker: Schema.String,
  worker_url: Text,
  outcome: Text,
  status: Ms,
  reason: Text,
  started_at: Time,
  ended_at: When,
  took_ms: Ms,
}).annotate({ identifier: "CallAttempt" })

const Answerer = Schema.Struct({
  identity: Schema.String,
  kind: Schema.String,
  joined_at: Time,
  left_at: When,
}).annotate({ identifier: "CallAnswerer" })

const CallDetails = Schema.Struct({
  ...summary,
  answerers: Schema.Array(Answerer),
  attempts: Schema.Array(Attempt),
  worker_url: Text,
  owner: Text,
  rule_id: Text,
  sip_call_id: Text,
  sip_call_id_full: Text,
  asked_id: Text,
  participant_identity: Text,
  answer: Schema.NullOr(
    Schema.Struct({ status: Schema.Finite, content_type: Text, body: Schema.Json }),
  ).annotate({ description: "What the worker or LiveKit said to the hand-over" }),
  metadata: Schema.Json.annotate({ description: "What an agent is told of the call" }),
  explanation: Schema.Json.annotate({ description: "Why it went where it went" }),
  why: Schema.Array(Schema.String).annotate({
    description: "The explanation in sentences, as `npm run ring -- --dry-run` prints it",
  }),
  lead: Schema.NullOr(Lead),
  session: Schema.NullOr(Session),
  created_at: Time,
  claimed_at: When,
  settled_at: When,
}).annotate({ identifier: "Call", description: "A call with everything that is known of it" })

const Cursor = cursorOf(Schema.Tuple([Schema.String.check(Schema.isPattern(/^-?[0-9]{1,17}$/)), IdInput]))

export const CallsGroup = HttpApiGroup.make("calls")
  .add(
    HttpApiEndpoint.get("list", "/calls", {
      query: {
        limit: Limit,
        cursor: Schema.optionalKey(Cursor),
        from: Schema.optionalKey(TimeInput),
        to: Schema.optionalKey(TimeInput),
        direction: Schema.optionalKey(Schema.Literals(["inbound", "outbound"])),
        status: Schema.optionalKey(Schema.Literals(["ringing", "active", "completed", "missed", "failed"])),
        outcome: Schema.optionalKey(Schema.Literals(["accepted", "rejected", "ambiguous", "not-sent"])),
        tenant_id: Schema.optionalKey(IdInput),
        campaign_id: Schema.optionalKey(IdInput),
        number: Schema.optionalKey(NumberInput),
        did: Schema.optionalKey(Term.annotate({ description: "A DID's id, or a dialed number in any form" })),
        worker: Schema.optionalKey(Term),
        unanswered: Schema.optionalKey(Schema.Boolean),
      },
      success: pageOf("CallPage", CallSummary, Cursor),
    }).annotate(OpenApi.Summary, "Calls, newest first"),
    HttpApiEndpoint.get("get", "/calls/:id", { params: { id: Term }, success: CallDetails }).annotate(
      OpenApi.Summary,
      "One call, by its id or its call_id",
    ),
  )
  .annotateMerge(
    OpenApi.annotations({
      description:
        "Newest first. A page may hold fewer calls than asked for, or none, while next_cursor says that there may be more.",
    }),
  )
