// How many connections may be open, in all and from one source.

import type { Server } from "node:http"
import type { Socket } from "node:net"
import type { SettingsShape } from "../config.ts"
import { isAllowed, sourceOf } from "./source.ts"

/** Which limit a connection was one too many for, as the metric names it. */
export type TooManyConnections = "connections" | "source-connections"

const sweepEveryMs = 1_000

/**
 * Closes, without a word, each connection beyond `MAX_CONNECTIONS` and `MAX_CONNECTIONS_PER_SOURCE`: whoever waits
 * for an answer sees a broken connection, which LiveKit tries again. A source has a share of its own, so that
 * nobody alone can take all of them; a trusted proxy speaks for many, and has none. Who is full gives up the
 * connections on which nothing is going on, so that the next one finds a place.
 *
 * Counted here, and not by the server's `maxConnections`: Deno does not tell when that closes one.
 */
export const limitConnections = (
  server: Server,
  { limits, trustedProxies }: Pick<SettingsShape, "limits" | "trustedProxies">,
  refused: (limit: TooManyConnections) => void,
): void => {
  let open = 0
  let sweptAt = Number.NEGATIVE_INFINITY
  const bySource = new Map<string, number>()

  const sweep = () => {
    if (performance.now() - sweptAt < sweepEveryMs) return
    sweptAt = performance.now()
    server.closeIdleConnections()
  }
  const shareOf = (socket: Socket): string | undefined => {
    const source = sourceOf(socket.remoteAddress, undefined, [])
    return trustedProxies.length > 0 && isAllowed(source, trustedProxies) ? undefined : source.bucket
  }
  const leave = (share: string | undefined) => {
    open--
    if (share === undefined) return
    const left = (bySource.get(share) ?? 0) - 1
    if (left > 0) bySource.set(share, left)
    else bySource.delete(share)
  }

  server.on("connection", (socket) => {
    const share = shareOf(socket)
    const ofSource = share === undefined ? 0 : (bySource.get(share) ?? 0)
    const tooMany = open >= limits.connections
    if (tooMany || ofSource >= limits.connectionsPerSource) {
      socket.destroy()
      return refused(tooMany ? "connections" : "source-connections")
    }
    open++
    if (share !== undefined) bySource.set(share, ofSource + 1)
    socket.once("close", () => leave(share))
    if (open >= limits.connections) sweep()
  })
}
