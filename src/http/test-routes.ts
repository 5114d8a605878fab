// For whoever sets the service up: is the webhook there, and whom would a number reach.

import { Effect, type Layer, Option } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import type { DatabaseError } from "../database/errors.ts"
import { type TrialNeeds, tryNumbers } from "../dispatch/trial.ts"
import { admit, type Overloaded } from "../load.ts"
import type { InvalidPayload } from "../webhook/event.ts"
import { InvalidSignature, MissingAuth } from "../webhook/signature.ts"
import { isAdminsToken } from "./admin-token.ts"
import { failureAnswer, problem } from "./answers.ts"
import { headerOf, type Posted, type ReceivingNeeds, receiving } from "./receiving.ts"
import { addPosted, eventsPath, sipInboundPath } from "./webhook-routes.ts"

export const testPath = "/api/v1/webhooks/test"
const healthPath = "/api/v1/webhooks/health"

const health = HttpServerResponse.jsonUnsafe({
  success: true,
  message: "Webhook endpoints are operational",
  endpoints: { sip_inbound: sipInboundPath, events: eventsPath },
})

type Failure = MissingAuth | InvalidSignature | InvalidPayload | DatabaseError | Overloaded

const onTest: Posted<Failure, TrialNeeds | Settings> = {
  kind: "record",
  isSigned: () => false,
  before: Effect.fnUntraced(function* (headers) {
    const { adminToken, production } = yield* Settings
    const authorization = headerOf(headers, "authorization")
    if (!production || isAdminsToken(authorization, adminToken)) return { unsigned: false }
    return yield* authorization === ""
      ? Effect.fail(new MissingAuth())
      : Effect.fail(new InvalidSignature({ why: "bad signature" }))
  }),
  work: (body) =>
    Effect.map(admit("record", tryNumbers(body)), (response) =>
      HttpServerResponse.jsonUnsafe({ success: true, message: "Test webhook processed", response }),
    ),
  inForm: (failure) =>
    Effect.succeed(
      failure._tag === "InvalidSignature" ? problem(401, "Invalid admin token") : failureAnswer(failure),
    ),
}

/** `GET /api/v1/webhooks/health` and, where there is an admin token, `POST /api/v1/webhooks/test`. */
export const testRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | TrialNeeds | ReceivingNeeds> =
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const { adminToken, production } = yield* Settings
      const context = yield* Effect.context<TrialNeeds | ReceivingNeeds>()
      yield* router.add("GET", healthPath, health)
      if (production && Option.isNone(adminToken)) return
      yield* addPosted(router, testPath, Effect.provideContext(receiving(onTest), context))
    }),
  )
