// For whoever sets the service up: is the webhook there, and whom would a number reach.

import { Effect, type Layer, Option } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Settings } from "../config.ts"
import { type TrialNeeds, tryNumbers } from "../dispatch/trial.ts"
import { admit } from "../load.ts"
import { InvalidSignature, MissingAuth } from "../webhook/signature.ts"
import { isAdmin } from "./admin-token.ts"
import { failureAnswer, problem } from "./answers.ts"
import { readBytes } from "./bodies.ts"
import { type ReceivingNeeds, receiving } from "./receiving.ts"
import { eventsPath, methodNotAllowed, notPost, sipInboundPath } from "./webhook-routes.ts"

export const testPath = "/api/v1/webhooks/test"
const healthPath = "/api/v1/webhooks/health"

const health = HttpServerResponse.jsonUnsafe({
  success: true,
  message: "Webhook endpoints are operational",
  endpoints: { sip_inbound: sipInboundPath, events: eventsPath },
})

const authorized = Effect.gen(function* () {
  const { production } = yield* Settings
  if (!production || (yield* isAdmin)) return
  const { headers } = yield* HttpServerRequest.HttpServerRequest
  return yield* (headers["authorization"] ?? "") === ""
    ? Effect.fail(new MissingAuth())
    : Effect.fail(new InvalidSignature({ why: "bad signature" }))
})

const onTest = receiving(
  "record",
  () =>
    authorized.pipe(
      Effect.andThen(readBytes),
      Effect.flatMap((body) => admit("record", tryNumbers(body))),
      Effect.map((response) =>
        HttpServerResponse.jsonUnsafe({ success: true, message: "Test webhook processed", response }),
      ),
    ),
  (failure) =>
    Effect.succeed(
      failure._tag === "InvalidSignature" ? problem(401, "Invalid admin token") : failureAnswer(failure),
    ),
)

/** `GET /api/v1/webhooks/health` and, where there is an admin token, `POST /api/v1/webhooks/test`. */
export const testRoutes: Layer.Layer<never, never, HttpRouter.HttpRouter | TrialNeeds | ReceivingNeeds> =
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const { adminToken, production } = yield* Settings
      const context = yield* Effect.context<TrialNeeds | ReceivingNeeds>()
      yield* router.add("GET", healthPath, health)
      if (production && Option.isNone(adminToken)) return
      yield* router.add("POST", testPath, Effect.provideContext(onTest, context))
      for (const method of notPost) yield* router.add(method, testPath, methodNotAllowed(testPath))
    }),
  )
