// What stands before every route of the admin API.

import { HttpApiMiddleware, HttpApiSecurity } from "effect/http-api"
import {
  BadRequest,
  InternalError,
  NotFound,
  TooLarge,
  Unauthorized,
  Unavailable,
  UnsupportedMediaType,
} from "./problems.ts"

/** `Authorization: Bearer` with the admin token. */
export class Authorization extends HttpApiMiddleware.Service<Authorization>()(
  "switchhook/http/admin/Authorization",
  { security: { bearer: HttpApiSecurity.bearer }, error: Unauthorized },
) {}

/** Turns what goes wrong before and after a handler into problem details. */
export class Answering extends HttpApiMiddleware.Service<Answering>()("switchhook/http/admin/Answering", {
  error: [BadRequest, NotFound, TooLarge, UnsupportedMediaType, InternalError, Unavailable],
}) {}
