// Requests of which we know, to the byte, whether anything was sent.

import { Agent, type Dispatcher } from "@effect/platform-node/Undici"
import { Effect, Predicate, type Scope } from "effect"
import { afterAwake, sleepAwake } from "../clock.ts"
import { failpointNow } from "../failpoint.ts"

/** Why nothing was sent. */
export type NothingSentReason =
  | "refused"
  | "unresolvable"
  | "connect timeout"
  | "unreachable"
  | "tls"
  | "not connected"
  | "lease lapsed"

/** For connecting, in ms of a process that is not held up. */
const connectMs = 1_000

// Where this process was held up, its connections get more time: whoever asks counts it by `notConnected`.
const longestConnectMs = 5_000

// The other side may close an idle connection just as we write on it, and that looks like a request that was sent
// and never answered. So a connection idle for 2 s is not used again; the rest is margin for the timer.
const reuseWithinMs = 1_900

/**
 * Stands between connecting and the first byte of one request. The connection asks it once the connection is
 * there: what it refuses then has sent nothing, and what it let pass counts as sent.
 */
export class Gate {
  state: "waiting" | "passed" | "closed" = "waiting"
  private readonly mayStart: () => boolean
  private readonly about: string | undefined
  constructor(mayStart: () => boolean, about?: string) {
    this.mayStart = mayStart
    this.about = about
  }
  pass(): boolean {
    if (this.about !== undefined) failpointNow("connected", this.about)
    if (this.state === "waiting") this.state = this.mayStart() ? "passed" : "closed"
    return this.state === "passed"
  }
  /** Lets nothing pass from here on; false where something has passed, and counts as sent. */
  close(): boolean {
    if (this.state === "waiting") this.state = "closed"
    return this.state === "closed"
  }
  sent(): void {
    if (this.about !== undefined) failpointNow("sent", this.about)
  }
}

/** Ends, with the gate closed, once connecting has taken too long (1 s, or `withinMs` where that is less). */
export const notConnected = (gate: Gate, withinMs: number): Effect.Effect<void> =>
  Effect.flatMap(sleepAwake(Math.min(connectMs, withinMs)), () =>
    Effect.suspend(() => (gate.close() ? Effect.void : Effect.never)),
  )

/** The same as a callback; gives what stops it, once connected. */
export const whenNotConnected = (gate: Gate, withinMs: number, callBack: () => void): (() => void) =>
  afterAwake(Math.min(connectMs, withinMs), () => {
    if (gate.close()) callBack()
  })

/** The option of a request that names its gate. */
export const gateOption = "switchhookGate"

const withGate: Dispatcher.DispatcherComposeInterceptor = (dispatch) => (options, handler) => {
  const gate = (options as { [gateOption]?: Gate })[gateOption]
  if (gate === undefined) return dispatch(options, handler)
  return dispatch(options, {
    onRequestStart: (controller, context) => {
      if (!gate.pass()) return controller.abort(new Error("held back before the first byte"))
      handler.onRequestStart?.(controller, context)
    },
    onRequestSent: () => {
      gate.sent()
      handler.onRequestSent?.()
    },
    onRequestUpgrade: (...args) => handler.onRequestUpgrade?.(...args),
    onResponseStart: (...args) => handler.onResponseStart?.(...args),
    onResponseData: (...args) => handler.onResponseData?.(...args),
    onResponseEnd: (...args) => handler.onResponseEnd?.(...args),
    onResponseError: (...args) => handler.onResponseError?.(...args),
  })
}

const makeAgent = () =>
  new Agent({
    connect: { timeout: longestConnectMs },
    keepAliveTimeout: reuseWithinMs,
    keepAliveMaxTimeout: reuseWithinMs,
  })

const beatMs = 200
const heldUpMs = 500

/**
 * An agent that begins anew after this process was held up: the timers that should have closed idle connections did
 * not run either, and whatever is still there may long be closed on the other side.
 */
const makeFreshAgent = () => {
  let agent = makeAgent()
  let beatAt = performance.now()
  const beating = setInterval(() => {
    beatAt = performance.now()
  }, beatMs).unref()
  const renewIfHeldUp: Dispatcher.DispatcherComposeInterceptor = () => (options, handler) => {
    if (performance.now() - beatAt > heldUpMs) {
      // What is under way on it goes on to its end.
      agent.close().catch(() => {})
      agent = makeAgent()
      beatAt = performance.now()
    }
    return agent.dispatch(options, handler)
  }
  return {
    dispatcher: agent.compose(renewIfHeldUp).compose(withGate),
    destroy: () => {
      clearInterval(beating)
      return agent.destroy()
    },
  }
}

/** Connections with a gate before every request that names one; its scope closes them. */
export const gatedConnections: Effect.Effect<Dispatcher, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(Effect.sync(makeFreshAgent), ({ destroy }) => Effect.promise(destroy)),
  ({ dispatcher }) => dispatcher,
)

/** The code of an error, or of what it was caused by; empty where there is none. */
export const codeOf = (error: unknown): string => {
  for (let cause = error, depth = 0; Predicate.isObject(cause) && depth < 6; depth++) {
    if (Predicate.hasProperty(cause, "code") && Predicate.isString(cause.code)) return cause.code
    if (cause instanceof AggregateError && cause.errors.length > 0) cause = cause.errors[0]
    else cause = Predicate.hasProperty(cause, "reason") ? cause.reason : (cause as { cause?: unknown }).cause
  }
  return ""
}

/** In one word, why a request that never left did not. */
export const unsentReason = (code: string): NothingSentReason => {
  if (code === "ECONNREFUSED") return "refused"
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return "unresolvable"
  if (code === "UND_ERR_CONNECT_TIMEOUT") return "connect timeout"
  if (code === "EHOSTUNREACH" || code === "ENETUNREACH") return "unreachable"
  if (/CERT|SSL|TLS|SELF_SIGNED|ALTNAME|UNABLE_TO/.test(code)) return "tls"
  return "not connected"
}
