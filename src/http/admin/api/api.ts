// The admin API, apart from what it does: from this come the routes, the OpenAPI document and its page.

import { HttpApi, OpenApi } from "effect/http-api"
import { Answering, Authorization } from "./authorization.ts"
import { CallsGroup } from "./calls.ts"
import { CarriersGroup } from "./carriers.ts"
import { DidsGroup } from "./dids.ts"
import { shaped } from "./document.ts"
import { LeadsGroup } from "./leads.ts"
import { SessionsGroup } from "./sessions.ts"
import { SettingsGroup } from "./settings.ts"
import { CampaignsGroup, TenantsGroup } from "./tenants.ts"
import { WorkersGroup } from "./workers.ts"

export const adminPath = "/api/v1/admin"

/** Unknown fields are refused: one that is misspelt must not be taken for one that is not there. */
export const AdminApi = HttpApi.make("switchhook-admin")
  .add(SettingsGroup)
  .add(WorkersGroup)
  .add(CarriersGroup)
  .add(TenantsGroup)
  .add(CampaignsGroup)
  .add(DidsGroup)
  .add(CallsGroup)
  .add(LeadsGroup)
  .add(SessionsGroup)
  .prefix(adminPath)
  .middleware(Authorization)
  .middleware(Answering)
  .annotate(HttpApi.PayloadParseOptions, { onExcessProperty: "error", errors: "all" })
  .annotate(HttpApi.QueryParseOptions, { onExcessProperty: "error", errors: "all" })
  .annotateMerge(
    OpenApi.annotations({
      title: "Switchhook admin API",
      // Of the API, as in its path: the document says nothing of the build that serves it.
      version: "1",
      description:
        "Errors are problem details (RFC 9457). Lists are paged: send next_cursor back as cursor until it is null.",
      transform: shaped,
    }),
  )
