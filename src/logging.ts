// How the service speaks: JSON lines in production, a readable line on a terminal, no whole number in either.

import { Cause, Layer, Logger, References } from "effect"
import type { SettingsShape } from "./config.ts"
import { maskId, maskText } from "./masking.ts"

const idNames = new Set(["call_id", "call", "replica", "event_id", "did", "tenant", "campaign"])

// Whatever is logged, logging it must not fail: values JSON cannot hold become texts, and depth has an end.
const deepest = 6
const longest = 2_000

const cut = (text: string) => (text.length > longest ? `${text.slice(0, longest)}…` : text)

const presentable = (name: string, value: unknown, depth = 0): unknown => {
  if (typeof value === "string") return idNames.has(name) ? maskId(cut(value)) : maskText(cut(value))
  if (value === null || typeof value === "number" || typeof value === "boolean") return value
  if (value instanceof Error || typeof value !== "object") return maskText(String(value))
  if (depth === deepest) return "…"
  if (Array.isArray(value)) return value.map((item) => presentable(name, item, depth + 1))
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [maskText(key), presentable(key, item, depth + 1)]),
  )
}

interface Line {
  readonly time: string
  readonly level: string
  readonly message: string
  readonly fields: Record<string, unknown>
}

const toLine = (options: Logger.Options<unknown>): Line => {
  const parts = Array.isArray(options.message) ? options.message : [options.message]
  const fields: Record<string, unknown> = {}
  const annotations = options.fiber.getRef(References.CurrentLogAnnotations)
  const keep = ([name, value]: [string, unknown]) => {
    if (value !== undefined) fields[name] = presentable(name, value)
  }
  Object.entries(annotations).forEach(keep)
  const words: Array<string> = []
  for (const part of parts) {
    if (typeof part === "object" && part !== null) {
      Object.entries(part).forEach(keep)
    } else {
      words.push(String(part))
    }
  }
  if (options.cause.reasons.length > 0) fields["cause"] = maskText(Cause.pretty(options.cause))
  return {
    time: options.date.toISOString(),
    level: options.logLevel.toLowerCase(),
    message: maskText(words.join(" ")),
    fields,
  }
}

const json = Logger.make((options) => {
  const { fields, ...line } = toLine(options)
  // The line's own names come first and win.
  console.log(JSON.stringify({ ...line, ...fields, ...line }))
})

/** Colours a text by its SGR code, on a terminal only. */
export const paint = (code: number, text: string): string =>
  process.stdout.isTTY ? `\x1b[${code}m${text}\x1b[0m` : text
const colours: Record<string, number> = { warn: 33, error: 31, fatal: 31, debug: 90, trace: 90 }

const readable = Logger.make((options) => {
  const line = toLine(options)
  const fields = Object.entries(line.fields)
    .map(
      ([name, value]) =>
        `${paint(90, `${name}=`)}${typeof value === "string" ? value : JSON.stringify(value)}`,
    )
    .join(" ")
  const level = line.level === "info" ? "" : `${paint(colours[line.level] ?? 0, line.level.toUpperCase())} `
  console.log(
    `${paint(90, line.time.slice(11, 23))} ${level}${line.message}${fields === "" ? "" : `  ${fields}`}`,
  )
})

/** The loggers for these settings. JSON in production, a readable line elsewhere. */
export const loggingLayer = (settings: Pick<SettingsShape, "production" | "logLevel">): Layer.Layer<never> =>
  Layer.merge(
    Logger.layer([settings.production ? json : readable]),
    Layer.succeed(References.MinimumLogLevel, settings.logLevel),
  )
