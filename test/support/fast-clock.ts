// To be preloaded (`node --import`): all of a process' time runs `CLOCK_SCALE` times as fast, from `CLOCK_EPOCH` (ms) on.
// With `fastDatabase` PostgreSQL's does as well, so that one scale holds for every duration of an experiment.

import { syncBuiltinESMExports } from "node:module"
import timers from "node:timers"
import timersPromises from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const scale = Number(process.env["CLOCK_SCALE"] ?? 1)
const epoch = Number(process.env["CLOCK_EPOCH"] ?? Date.now())

const realNow = Date.now
const realPerformanceNow = performance.now.bind(performance)
const realHrtime = process.hrtime.bigint
const hrtimeStart = realHrtime()

const now = () => Math.floor(epoch + (realNow() - epoch) * scale)
const hrtimeNs = () => hrtimeStart + BigInt(Math.round(Number(realHrtime() - hrtimeStart) * scale))

const hrtime = (before?: [number, number]): [number, number] => {
  const ns = hrtimeNs() - (before === undefined ? 0n : BigInt(before[0]) * 1_000_000_000n + BigInt(before[1]))
  return [Number(ns / 1_000_000_000n), Number(ns % 1_000_000_000n)]
}

const FastDate = new Proxy(Date, {
  construct: (date, given, target) => Reflect.construct(date, given.length === 0 ? [now()] : given, target),
  get: (date, name) => (name === "now" ? now : Reflect.get(date, name)),
})

if (scale !== 1) {
  globalThis.Date = FastDate
  performance.now = () => realPerformanceNow() * scale
  process.hrtime = Object.assign(hrtime, { bigint: hrtimeNs })

  const real = { setTimeout, setInterval }
  const later = (run: () => void, ms = 0, ...rest: ReadonlyArray<unknown>) =>
    real.setTimeout(run as (...args: ReadonlyArray<unknown>) => void, ms / scale, ...rest)
  const sleep = timersPromises.setTimeout
  const slept = (ms = 0, ...rest: ReadonlyArray<unknown>) => sleep(ms / scale, ...(rest as [undefined]))
  Object.defineProperty(later, promisify.custom, { value: slept })
  const again = (run: () => void, ms = 0, ...rest: ReadonlyArray<unknown>) =>
    real.setInterval(run as (...args: ReadonlyArray<unknown>) => void, ms / scale, ...rest)
  const fast = { setTimeout: later, setInterval: again }
  Object.assign(globalThis, fast)
  Object.assign(timers, fast)
  Object.assign(timersPromises, { setTimeout: slept })
  syncBuiltinESMExports()
}

/** The real time of the machine in ms, whatever this process' own clock says. */
export const realMs = (): number => realPerformanceNow()

/** How many times as fast as the machine's this process' clock is. */
export const clockScale: number = scale

/** What starts a process on the same clock. */
export const clockEnv: Readonly<Record<string, string>> = {
  CLOCK_SCALE: String(scale),
  CLOCK_EPOCH: String(epoch),
}

/** Makes a database's clock as fast: to be run in it before its tables are made. */
export const fastDatabase = `
  CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT to_timestamp(${epoch / 1000})
      + (pg_catalog.clock_timestamp() - to_timestamp(${epoch / 1000})) * ${scale}::float8
  $$;
  DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
  END $$;
`

/** This module, to be preloaded. */
export const fastClockModule: string = fileURLToPath(import.meta.url)
