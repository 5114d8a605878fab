// To be preloaded into the service: kills or freezes it at one step of a hand-over, once.
//
// `FAILPOINT` says where, or the file that `FAILPOINT_FILE` names, which is looked for at each step and removed by the
// process that it strikes: `claimed:kill`, `claimed#3:stop` (at the third time), `sent:kill:SCL_1` (with this call only).

import { readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import type { Failpoint, FailpointHook } from "../../src/failpoint.ts"

/** This module, to be preloaded. */
export const failpointsModule: string = fileURLToPath(import.meta.url)

/** Where to strike, and how. */
export interface Strike {
  readonly point: Failpoint
  readonly how: "kill" | "stop"
  /** At which time, 1 being the first. */
  readonly time?: number
  /** With which call only, by its `sip.callID`. */
  readonly callId?: string
}

/** A strike as `FAILPOINT` and the file have it. */
export const strikeText = ({ callId, how, point, time = 1 }: Strike): string =>
  `${point}#${time}:${how}${callId === undefined ? "" : `:${callId}`}`

const strikeIn = (text: string): Strike => {
  const [, point, time, how, callId] = /^([a-z]+)(?:#(\d+))?:(kill|stop)(?::(.+))?$/.exec(text.trim()) ?? []
  if (point === undefined) throw new Error(`not a failpoint: ${text}`)
  const strike = { point: point as Failpoint, how: how as Strike["how"], time: Number(time ?? 1) }
  return callId === undefined ? strike : { ...strike, callId }
}

/** The environment that makes a service do so. */
export const failingAt = (strike: Strike): Record<string, string> => ({ FAILPOINT: strikeText(strike) })

/** Makes a service that runs with this `FAILPOINT_FILE` do so from now on. */
export const arm = (file: string, strike: Strike): void => {
  writeFileSync(`${file}.new`, strikeText(strike))
  renameSync(`${file}.new`, file)
}

const file = process.env["FAILPOINT_FILE"]
let told = process.env["FAILPOINT"]
let counted = ""
let passed = 0
// A mistake is better seen at the start.
if (told !== undefined) strikeIn(told)

const readFile = () => {
  try {
    return file === undefined ? "" : readFileSync(file, "utf8").trim()
  } catch {
    return ""
  }
}

// Where two processes read one file, whoever removes it is the one.
const disarm = () => {
  if (told !== undefined) {
    told = undefined
    return true
  }
  try {
    unlinkSync(file ?? "")
    return true
  } catch {
    return false
  }
}

const concerns = (about: string | Uint8Array, callId: string) =>
  typeof about === "string" ? about === callId : Buffer.from(about).includes(callId)

const pause = new Int32Array(new SharedArrayBuffer(4))

// A signal to oneself may be a moment on its way, and nothing may be done meanwhile.
const strike = (how: Strike["how"]) => {
  process.kill(process.pid, how === "kill" ? "SIGKILL" : "SIGSTOP")
  Atomics.wait(pause, 0, 0, 50)
}

// What was written has not left before the event loop has turned.
const leavesWithin: Partial<Record<Failpoint, number>> = { sent: 20, replied: 100 }

const hook: FailpointHook = (name, about) => {
  const text = told ?? readFile()
  if (text === "") return
  const { callId, how, point, time } = strikeIn(text)
  if (point !== name || (callId !== undefined && !concerns(about, callId))) return
  if (counted !== text) passed = 0
  counted = text
  if (++passed !== time) return
  counted = ""
  if (!disarm()) return
  const within = leavesWithin[name]
  if (within === undefined) return strike(how)
  setTimeout(() => strike(how), within)
}

// The tests import this module, too, for its names.
if (told !== undefined || file !== undefined)
  Object.assign(globalThis, { [Symbol.for("switchhook.failpoint")]: hook })
