// Every way the admin API says no, as RFC 9457 problem details.

import { Schema } from "effect"
import { HttpApiError } from "effect/http-api"

const blank = "about:blank"

/** What every problem says of itself. */
const said = { detail: Schema.String.annotate({ description: "What is wrong, for a person" }) }

/** What is wrong with one field of a request, by its path (`dids[1]`). */
export const FieldProblem = Schema.Struct({
  path: Schema.String.annotate({ description: "Empty where it is the request as a whole" }),
  message: Schema.String,
}).annotate({ identifier: "FieldProblem" })

/** A body, a query or a number that cannot be used. */
export class BadRequest extends HttpApiError.Problem<BadRequest>()(
  "BadRequest",
  { type: blank, status: 400, title: "Bad Request" },
  { ...said, errors: Schema.Array(FieldProblem) },
  { description: "A body, a query or a number that cannot be used; errors says which fields are at fault" },
) {
  /** One field is at fault. */
  static readonly at = (path: string, message: string): BadRequest => BadRequest.of([{ path, message }])

  /** All fields that are at fault. */
  static readonly of = (errors: ReadonlyArray<typeof FieldProblem.Type>): BadRequest =>
    new BadRequest({
      detail: errors.map(({ message, path }) => (path === "" ? message : `${path}: ${message}`)).join("; "),
      errors,
    })
}

/** No admin token, or a wrong one. */
export class Unauthorized extends HttpApiError.Problem<Unauthorized>()(
  "Unauthorized",
  { type: blank, status: 401, title: "Unauthorized" },
  said,
  { description: "No admin token, or a wrong one" },
) {}

/** Nothing has that id, name or key. */
export class NotFound extends HttpApiError.Problem<NotFound>()(
  "NotFound",
  { type: blank, status: 404, title: "Not Found" },
  said,
  { description: "Nothing has that id, name or key; or no admin token is set, and there is no admin API" },
) {}

/** Something else has this value already, or refers to what was to be deleted; `field` says which. */
export class Conflict extends HttpApiError.Problem<Conflict>()(
  "Conflict",
  { type: blank, status: 409, title: "Conflict" },
  { ...said, field: Schema.String },
  {
    description:
      "Something else has this value already, or refers to what was to be deleted; field says which",
  },
) {}

/** The body is over 1 MiB. */
export class TooLarge extends HttpApiError.Problem<TooLarge>()(
  "TooLarge",
  { type: blank, status: 413, title: "Content Too Large" },
  said,
  { description: "The body is over 1 MiB" },
) {}

/** The body is not said to be JSON. */
export class UnsupportedMediaType extends HttpApiError.Problem<UnsupportedMediaType>()(
  "UnsupportedMediaType",
  { type: blank, status: 415, title: "Unsupported Media Type" },
  said,
  { description: "The body is not said to be JSON" },
) {}

/** A bug of ours. */
export class InternalError extends HttpApiError.Problem<InternalError>()(
  "InternalError",
  { type: blank, status: 500, title: "Internal Server Error" },
  said,
  { description: "A bug of Switchhook; its log says more" },
) {}

/** The database is away, or there is too much to do. */
export class Unavailable extends HttpApiError.Problem<Unavailable>()(
  "Unavailable",
  { type: blank, status: 503, title: "Service Unavailable" },
  said,
  { description: "The database is away, or there is so much to do that calls go first" },
) {}
