// The fleet as this replica sees it, and draining.

import { Schema } from "effect"
import { HttpApiEndpoint, HttpApiGroup, OpenApi } from "effect/http-api"
import { Time } from "./common.ts"
import { without } from "./document.ts"
import { Conflict } from "./problems.ts"

const Worker = Schema.Struct({
  name: Schema.String,
  url: Schema.String,
  state: Schema.Literals(["up", "full", "tripped", "draining", "down", "unknown"]),
  why_out: Schema.NullOr(Schema.String).annotate({
    description: "Why it gets no call now; null where it may",
  }),
  draining: Schema.Boolean.annotate({ description: "By core_fleet, by drained_workers or by its own word" }),
  load: Schema.Finite.annotate({ description: "Calls per place: 0 idle, 1 full" }),
  calls: Schema.Finite,
  capacity: Schema.NullOr(Schema.Finite),
  in_flight: Schema.Finite.annotate({ description: "Relays under way from this replica" }),
  breaker: Schema.Literals(["closed", "open"]),
  last_probe: Schema.NullOr(
    Schema.Struct({ ok: Schema.Boolean, at: Time, why: Schema.NullOr(Schema.String) }),
  ),
  latency_ms: Schema.NullOr(Schema.Finite),
}).annotate({ identifier: "Worker" })

const Workers = Schema.Struct({ items: Schema.Array(Worker) }).annotate({
  identifier: "Workers",
  description: "All of them",
})

const params = { name: Schema.String }
const Drained = Schema.Struct({ name: Schema.String, drained: Schema.Boolean }).annotate({
  identifier: "Drained",
  description: "Whether it is drained now",
})

export const WorkersGroup = HttpApiGroup.make("workers")
  .add(
    HttpApiEndpoint.get("list", "/workers", { success: Workers }).annotateMerge(
      // From memory, without the database.
      OpenApi.annotations({ summary: "The fleet, as this replica sees it", transform: without(503) }),
    ),
    HttpApiEndpoint.post("drain", "/workers/:name/drain", { params, success: Drained }).annotate(
      OpenApi.Summary,
      "Give a worker no new call",
    ),
    HttpApiEndpoint.post("undrain", "/workers/:name/undrain", {
      params,
      success: Drained,
      error: Conflict,
    }).annotate(OpenApi.Summary, "Give a drained worker calls again"),
  )
  .annotateMerge(
    OpenApi.annotations({
      description:
        "A drained worker gets no new call from any replica, also after a restart; its calls go on to their end.",
    }),
  )
