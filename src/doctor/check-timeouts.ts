// How long everybody waits, from LiveKit to the worker: each must outlast the next one.

import { isLoopback } from "./asking.ts"
import { type Finding, findingsAbout } from "./finding.ts"
import type { World } from "./world.ts"

const { error, ok, warning } = findingsAbout("Timeouts")

const relaySeconds = 10
const proxySeconds = 15
const slowMs = 1_000

// LiveKit has no limit for one answer; what waits 30 s behind others of its room is dropped.
const order = `relay ${relaySeconds} s < proxy ${proxySeconds} s < LiveKit, which drops what waits for 30 s`

/** What can be seen from here; of a proxy in between it says what it must be set to. */
export const checkTimeouts = ({ service, webhook }: World): ReadonlyArray<Finding> => {
  if (webhook === undefined || service.kind === "no answer") return []
  if (service.kind === "ready" && service.tookMs > slowMs) {
    const took = `${service.at} took ${(service.tookMs / 1_000).toFixed(1)} s to answer`
    const why =
      "LiveKit sends the events of a room one after the other: all that time the caller hears ringing."
    const fix = "Look at the proxies in between (DNS, TLS, a cold start), and at the load of the service."
    return [(service.tookMs > relaySeconds * 1_000 ? error : warning)(took, { why, fix })]
  }
  const proxy = isLoopback(webhook)
    ? ""
    : `; a proxy in between cannot be seen from here: let it wait ${proxySeconds} s and never repeat a POST ` +
      `(nginx: proxy_read_timeout ${proxySeconds}s; proxy_next_upstream off)`
  return [ok(`In the right order: ${order}${proxy}`)]
}
