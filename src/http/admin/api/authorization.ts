// What stands before every route of the admin API.

import { HttpApiMiddleware, HttpApiSecurity, OpenApi } from "effect/http-api"
import {
  BadRequest,
  InternalError,
  NotFound,
  TooLarge,
  Unauthorized,
  Unavailable,
  UnsupportedMediaType,
} from "./problems.ts"

// In lower case, unlike `HttpApiSecurity.bearer`: Scalar takes any other spelling for Basic.
const bearer = HttpApiSecurity.http({ scheme: "bearer" }).pipe(
  HttpApiSecurity.annotate(OpenApi.Description, "The ADMIN_TOKEN of the service"),
)

/** `Authorization: Bearer` with the admin token. */
export class Authorization extends HttpApiMiddleware.Service<Authorization>()(
  "switchhook/http/admin/Authorization",
  { security: { bearer }, error: Unauthorized },
) {}

/** Turns what goes wrong before and after a handler into problem details. */
export class Answering extends HttpApiMiddleware.Service<Answering>()("switchhook/http/admin/Answering", {
  error: [BadRequest, NotFound, TooLarge, UnsupportedMediaType, InternalError, Unavailable],
}) {}
