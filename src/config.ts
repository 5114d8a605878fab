// Every setting of the service: its name, its default, what it means and what counts as a mistake.

import { randomBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import {
  Config,
  ConfigProvider,
  Context,
  Data,
  Effect,
  Layer,
  type LogLevel,
  Option,
  Redacted,
  Result,
} from "effect"
import ipaddr from "ipaddr.js"
import { type CountryCode, isSupportedCountry } from "libphonenumber-js/min"

/** One LiveKit API key with its secret; the key is the `iss` of a webhook's token. */
export interface ApiKey {
  readonly key: string
  readonly secret: Redacted.Redacted
}

/** A network, as address and length of its prefix in bits. */
export type Network = readonly [address: ipaddr.IPv4 | ipaddr.IPv6, prefix: number]

/** `failed`: those that no worker is known to have taken; `all`: also those that one has. */
export type Rescue = "failed" | "all" | "off"

/** What a client may take of time, size and number; whoever wants more is refused. */
export interface Limits {
  /** Until the headers are there, in ms. */
  readonly headersTimeoutMs: number
  /** Until the whole request is there, in ms. */
  readonly requestTimeoutMs: number
  /** How long a connection stays open between two requests, in ms. */
  readonly keepAliveMs: number
  /** Bytes of one body. */
  readonly bodySize: number
  /** Bytes of all bodies that are still arriving, beyond the first few KiB of each. */
  readonly bodiesSize: number
  /** Bytes of the request line and all headers. */
  readonly headersSize: number
  readonly headers: number
  readonly connections: number
  /** Connections from one address (IPv6: one /64) that is none of `trustedProxies`. */
  readonly connectionsPerSource: number
}

/** Who answers a number: a worker of the fleet, or an agent of LiveKit's. */
export type InboundTarget = "fleet" | "agent"

/** What the service runs with, validated: every field is usable as it stands. */
export interface SettingsShape {
  readonly port: number
  readonly host: string
  readonly production: boolean
  readonly logLevel: LogLevel.LogLevel
  readonly database:
    | { readonly kind: "postgres"; readonly url: Redacted.Redacted }
    | { readonly kind: "embedded"; readonly dataDir: string }
  /** For the embedded database, and for what waits for a database that is away. */
  readonly dataDir: string
  readonly apiKeys: ReadonlyArray<ApiKey>
  /** LiveKit's API, as an http(s) or ws(s) URL. */
  readonly livekitUrl: Option.Option<string>
  readonly coreSecret: Redacted.Redacted
  readonly coreFleet: Option.Option<string>
  /** The trunks to look at beside the carriers' own. */
  readonly inboundTrunks: ReadonlyArray<string>
  readonly outboundTrunks: ReadonlySet<string>
  readonly requireDispatchRule: boolean
  readonly inboundTarget: InboundTarget
  readonly defaultAgent: string
  readonly fallbackAgent: Option.Option<string>
  /** How long somebody may take to join a caller, in ms. */
  readonly answerWithinMs: number
  /** Which calls that nobody has joined get another worker. */
  readonly rescue: Rescue
  /** For numbers without a country code. */
  readonly defaultRegion: CountryCode
  /** Whoever may sign `sip-inbound`: any of these. */
  readonly webhookSecrets: ReadonlyArray<Redacted.Redacted>
  readonly sipInboundUnsigned: boolean
  readonly adminToken: Option.Option<Redacted.Redacted>
  /** True where nobody gave an admin token and one was made up (development only). */
  readonly adminTokenMadeUp: boolean
  /** Who may call the webhook URLs; everybody where it is empty. */
  readonly allowedSources: ReadonlyArray<Network>
  /** Whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: ReadonlyArray<Network>
  /** Requests per minute and source that are not validly signed. */
  readonly rateLimitPerMinute: number
  readonly limits: Limits
  /** How many requests and claims may be in work at once. */
  readonly maxInWork: number
  /** True where a secret that anybody can read in the documentation is in use (development only). */
  readonly developmentDefaults: boolean
}

/** The start was refused: one line for each setting that is wrong, none of them showing a secret. */
export class BadSettings extends Data.TaggedError("BadSettings")<{
  readonly lines: ReadonlyArray<string>
}> {
  override get message() {
    return this.lines.join("\n")
  }
}

const developmentKey = "devkey"
const developmentSecret = "secret"
const developmentCoreSecret = "dev-core-secret"

const levels = {
  trace: "Trace",
  debug: "Debug",
  info: "Info",
  warn: "Warn",
  error: "Error",
  fatal: "Fatal",
  none: "None",
} as const satisfies Record<string, LogLevel.LogLevel>

interface Setting<A> {
  readonly name: string
  readonly expects: string
  readonly read: (raw: string) => A | undefined
  readonly fallback: A
  readonly secret?: true
}

const between = (low: number, high: number) => (raw: string) => {
  const value = /^\d{1,9}$/.test(raw) ? Number(raw) : Number.NaN
  return value >= low && value <= high ? value : undefined
}

/** Reads a duration, like `1.5 s`, as milliseconds; the units and the bounds are in seconds. */
export const duration =
  (units: Readonly<Record<string, number>>, low: number, high: number) =>
  (raw: string): number | undefined => {
    const [, count, unit = ""] = /^(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]*)$/.exec(raw) ?? []
    const value = Object.hasOwn(units, unit) ? Number(count) * (units[unit] ?? Number.NaN) : Number.NaN
    return value >= low && value <= high ? Math.round(value * 1000) : undefined
  }

const seconds = (low: number, high: number) => duration({ "": 1, s: 1 }, low, high)

const units = { "": 1, KiB: 1024, MiB: 1024 * 1024 } as const
const bytes = (low: number, high: number) => (raw: string) => {
  const [, count, unit = ""] = /^(\d{1,9})\s*(KiB|MiB)?$/.exec(raw) ?? []
  const value = count === undefined ? Number.NaN : Number(count) * units[unit as keyof typeof units]
  return value >= low && value <= high ? value : undefined
}

const flags = new Map([
  ["true", true],
  ["1", true],
  ["yes", true],
  ["false", false],
  ["0", false],
  ["no", false],
])
const flag = (raw: string) => flags.get(raw.toLowerCase())

const postgresUrl = (raw: string) => {
  const url = URL.canParse(raw) ? new URL(raw) : undefined
  return url !== undefined && /^postgres(ql)?:$/.test(url.protocol)
    ? Option.some(Redacted.make(raw))
    : undefined
}

const list = (raw: string) =>
  raw
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "")

const keyPairs = (raw: string): ReadonlyArray<ApiKey> | undefined => {
  const pairs = list(raw).map((item) => {
    const colon = item.indexOf(":")
    return { key: item.slice(0, Math.max(colon, 0)), secret: Redacted.make(item.slice(colon + 1)) }
  })
  return pairs.every(({ key, secret }) => key !== "" && Redacted.value(secret) !== "") ? pairs : undefined
}

const networks = (raw: string): ReadonlyArray<Network> | undefined => {
  const items = list(raw).map((item) =>
    item.includes("/") || !ipaddr.isValid(item) ? item : `${item}/${item.includes(":") ? 128 : 32}`,
  )
  return items.every((item) => ipaddr.isValidCIDR(item))
    ? items.map((item) => ipaddr.parseCIDR(item))
    : undefined
}

const liveKitUrl = (raw: string) =>
  URL.canParse(raw) && /^(?:wss?|https?):$/.test(new URL(raw).protocol) ? Option.some(raw) : undefined

const text = (raw: string) => raw
const optionalText = (raw: string) => Option.some(raw)
const optionalSecret = (raw: string) => Option.some(Redacted.make(raw))

const settings = {
  port: {
    name: "PORT",
    expects: "a port from 0 to 65535 (0: any free one)",
    read: between(0, 65535),
    fallback: 3000,
  },
  host: { name: "HOST", expects: "an address to listen on", read: text, fallback: "0.0.0.0" },
  environment: {
    name: "NODE_ENV",
    expects: "development, test or production",
    read: (raw) => (["development", "test", "production"].includes(raw) ? raw : undefined),
    fallback: "development",
  },
  logLevel: {
    name: "LOG_LEVEL",
    expects: Object.keys(levels).join(", "),
    read: (raw): LogLevel.LogLevel | undefined =>
      Object.hasOwn(levels, raw.toLowerCase()) ? levels[raw.toLowerCase() as keyof typeof levels] : undefined,
    fallback: "Info" as LogLevel.LogLevel,
  },
  databaseUrl: {
    name: "DATABASE_URL",
    expects: "a URL like postgres://user:password@host:5432/database",
    read: postgresUrl,
    fallback: Option.none<Redacted.Redacted>(),
    secret: true,
  },
  dataDir: { name: "DATA_DIR", expects: "a directory", read: text, fallback: ".data" },
  embeddedDatabase: { name: "EMBEDDED_DATABASE", expects: "true or false", read: flag, fallback: false },
  apiKey: {
    name: "LIVEKIT_API_KEY",
    expects: "a LiveKit API key",
    read: optionalText,
    fallback: Option.none<string>(),
  },
  apiSecret: {
    name: "LIVEKIT_API_SECRET",
    expects: "the secret of LIVEKIT_API_KEY",
    read: optionalSecret,
    fallback: Option.none<Redacted.Redacted>(),
    secret: true,
  },
  moreKeys: {
    name: "LIVEKIT_KEYS",
    expects: "key:secret pairs, separated by commas",
    read: keyPairs,
    fallback: [] as ReadonlyArray<ApiKey>,
    secret: true,
  },
  coreSecret: {
    name: "CXB_CORE_SECRET",
    expects: "the secret the workers expect in X-CXB-Core-Secret, printable ASCII",
    read: (raw) => (/^[\x21-\x7e]+$/.test(raw) ? Option.some(Redacted.make(raw)) : undefined),
    fallback: Option.none<Redacted.Redacted>(),
    secret: true,
  },
  coreFleet: {
    name: "CORE_FLEET",
    expects: "worker URLs",
    read: optionalText,
    fallback: Option.none<string>(),
  },
  inboundTrunks: {
    name: "LIVEKIT_INBOUND_TRUNK_ID",
    expects: "trunk ids, separated by commas",
    read: list,
    fallback: [] as ReadonlyArray<string>,
  },
  outboundTrunks: {
    name: "LIVEKIT_OUTBOUND_TRUNK_ID",
    expects: "trunk ids, separated by commas",
    read: (raw) => new Set(list(raw)),
    fallback: new Set<string>(),
  },
  requireDispatchRule: {
    name: "REQUIRE_DISPATCH_RULE",
    expects: "true or false",
    read: flag,
    fallback: false,
  },
  livekitUrl: {
    name: "LIVEKIT_URL",
    expects: "a URL like wss://project.livekit.cloud",
    read: liveKitUrl,
    fallback: Option.none<string>(),
  },
  inboundTarget: {
    name: "INBOUND_TARGET",
    expects: "fleet or agent",
    read: (raw): InboundTarget | undefined => (raw === "fleet" || raw === "agent" ? raw : undefined),
    fallback: "fleet" as InboundTarget,
  },
  defaultAgent: {
    name: "DEFAULT_AGENT",
    expects: "an agent's name",
    read: text,
    fallback: "telephony-agent",
  },
  fallbackAgent: {
    name: "FALLBACK_AGENT",
    expects: "an agent's name",
    read: optionalText,
    fallback: Option.none<string>(),
  },
  answerWithinMs: {
    name: "ANSWER_WITHIN",
    expects: "seconds, 5 at least, like 20 s",
    read: seconds(5, 3600),
    fallback: 20_000,
  },
  rescue: {
    name: "RESCUE",
    expects: "failed, all or off",
    read: (raw): Rescue | undefined => (raw === "failed" || raw === "all" || raw === "off" ? raw : undefined),
    fallback: "failed" as Rescue,
  },
  defaultRegion: {
    name: "DEFAULT_REGION",
    expects: "a country of two letters, like US",
    read: (raw): CountryCode | undefined => {
      const region = raw.toUpperCase()
      return isSupportedCountry(region) ? region : undefined
    },
    fallback: "US" as CountryCode,
  },
  webhookSecret: {
    name: "WEBHOOK_SECRET",
    expects: "the secret that signs sip-inbound requests",
    read: optionalSecret,
    fallback: Option.none<Redacted.Redacted>(),
    secret: true,
  },
  sipInboundUnsigned: {
    name: "SIP_INBOUND_UNSIGNED",
    expects: "true or false",
    read: flag,
    fallback: false,
  },
  adminToken: {
    name: "ADMIN_TOKEN",
    expects: "a token for the admin API, 16 characters at least, without spaces",
    read: (raw) => (/^[\x21-\x7e]{16,}$/.test(raw) ? Option.some(Redacted.make(raw)) : undefined),
    fallback: Option.none<Redacted.Redacted>(),
    secret: true,
  },
  allowedSources: {
    name: "ALLOWED_SOURCES",
    expects: "addresses or networks like 10.0.0.0/8 or 2001:db8::/32, separated by commas",
    read: networks,
    fallback: [] as ReadonlyArray<Network>,
  },
  trustedProxies: {
    name: "TRUSTED_PROXIES",
    expects: "addresses or networks like 10.0.0.0/8 or 2001:db8::/32, separated by commas",
    read: networks,
    fallback: [] as ReadonlyArray<Network>,
  },
  rateLimitPerMinute: {
    name: "RATE_LIMIT_PER_MINUTE",
    expects: "requests per minute, from 1 to 1000000",
    read: between(1, 1_000_000),
    fallback: 100,
  },
  headersTimeoutMs: {
    name: "HEADERS_TIMEOUT",
    expects: "seconds from 0.1 to 600, like 5 s",
    read: seconds(0.1, 600),
    fallback: 5_000,
  },
  requestTimeoutMs: {
    name: "REQUEST_TIMEOUT",
    expects: "seconds from 0.1 to 600, like 10 s",
    read: seconds(0.1, 600),
    fallback: 10_000,
  },
  // LiveKit's Go client, and most proxies, keep an idle connection for up to 90 s: closed by us first, it would
  // cost an event a retry.
  keepAliveMs: {
    name: "KEEP_ALIVE",
    expects: "seconds from 1 to 3600, like 95 s",
    read: seconds(1, 3600),
    fallback: 95_000,
  },
  bodySize: {
    name: "MAX_BODY_SIZE",
    expects: "a size from 16 KiB to 64 MiB, like 1 MiB",
    read: bytes(16 * units.KiB, 64 * units.MiB),
    fallback: 1 * units.MiB,
  },
  bodiesSize: {
    name: "MAX_BODIES_SIZE",
    expects: "a size from 1 MiB to 4096 MiB, like 64 MiB",
    read: bytes(1 * units.MiB, 4096 * units.MiB),
    fallback: 64 * units.MiB,
  },
  headersSize: {
    name: "MAX_HEADERS_SIZE",
    expects: "a size from 4 KiB to 1 MiB, like 16 KiB",
    read: bytes(4 * units.KiB, 1 * units.MiB),
    fallback: 16 * units.KiB,
  },
  headers: {
    name: "MAX_HEADERS",
    expects: "a number from 20 to 2000",
    read: between(20, 2_000),
    fallback: 100,
  },
  connections: {
    name: "MAX_CONNECTIONS",
    expects: "a number from 1 to 1000000",
    read: between(1, 1_000_000),
    fallback: 10_000,
  },
  connectionsPerSource: {
    name: "MAX_CONNECTIONS_PER_SOURCE",
    expects: "a number from 1 to 1000000",
    read: between(1, 1_000_000),
    fallback: 5_000,
  },
  maxInWork: {
    name: "MAX_IN_WORK",
    expects: "a number from 1 to 1000000",
    read: between(1, 1_000_000),
    fallback: 256,
  },
} satisfies Record<string, Setting<any>>

const readSetting = Effect.fnUntraced(function* <A>(setting: Setting<A>) {
  const raw = yield* Config.option(Config.String(setting.name)).pipe(
    Effect.mapError(() => `${setting.name}: expected ${setting.expects}`),
  )
  if (Option.isNone(raw) || raw.value.trim() === "") return setting.fallback
  const value = setting.read(raw.value.trim())
  if (value !== undefined) return value
  const shown = setting.secret === true ? "" : `, got ${JSON.stringify(raw.value.slice(0, 80))}`
  return yield* Effect.fail(`${setting.name}: expected ${setting.expects}${shown}`)
})

/**
 * Reads and validates every setting from the current `ConfigProvider`.
 * Fails with `BadSettings`, which has a line for each mistake, not only for the first.
 */
export const readSettings: Effect.Effect<SettingsShape, BadSettings> = Effect.gen(function* () {
  const lines: Array<string> = []
  const read = <A>(setting: Setting<A>) =>
    Effect.map(
      Effect.result(readSetting(setting)),
      Result.getOrElse((line) => {
        lines.push(line)
        return setting.fallback
      }),
    )
  const port = yield* read(settings.port)
  const host = yield* read(settings.host)
  const environment = yield* read(settings.environment)
  const logLevel = yield* read(settings.logLevel)
  const databaseUrl = yield* read(settings.databaseUrl)
  const dataDir = yield* read(settings.dataDir)
  const embeddedDatabase = yield* read(settings.embeddedDatabase)
  const apiKey = yield* read(settings.apiKey)
  const apiSecret = yield* read(settings.apiSecret)
  const moreKeys = yield* read(settings.moreKeys)
  const coreSecret = yield* read(settings.coreSecret)
  const coreFleet = yield* read(settings.coreFleet)
  const inboundTrunks = yield* read(settings.inboundTrunks)
  const outboundTrunks = yield* read(settings.outboundTrunks)
  const requireDispatchRule = yield* read(settings.requireDispatchRule)
  const livekitUrl = yield* read(settings.livekitUrl)
  const inboundTarget = yield* read(settings.inboundTarget)
  const defaultAgent = yield* read(settings.defaultAgent)
  const fallbackAgent = yield* read(settings.fallbackAgent)
  const answerWithinMs = yield* read(settings.answerWithinMs)
  const rescue = yield* read(settings.rescue)
  const defaultRegion = yield* read(settings.defaultRegion)
  const webhookSecret = yield* read(settings.webhookSecret)
  const sipInboundUnsigned = yield* read(settings.sipInboundUnsigned)
  const adminToken = yield* read(settings.adminToken)
  const allowedSources = yield* read(settings.allowedSources)
  const trustedProxies = yield* read(settings.trustedProxies)
  const rateLimitPerMinute = yield* read(settings.rateLimitPerMinute)
  const limits: Limits = {
    headersTimeoutMs: yield* read(settings.headersTimeoutMs),
    requestTimeoutMs: yield* read(settings.requestTimeoutMs),
    keepAliveMs: yield* read(settings.keepAliveMs),
    bodySize: yield* read(settings.bodySize),
    bodiesSize: yield* read(settings.bodiesSize),
    headersSize: yield* read(settings.headersSize),
    headers: yield* read(settings.headers),
    connections: yield* read(settings.connections),
    connectionsPerSource: yield* read(settings.connectionsPerSource),
  }

  const maxInWork = yield* read(settings.maxInWork)

  const production = environment === "production"
  const badNames = new Set(lines.map((line) => line.slice(0, line.indexOf(":"))))
  const required = (name: string, present: boolean, why: string) => {
    if (production && !present && !badNames.has(name)) lines.push(`${name}: ${why}`)
  }
  const isNot = (secret: Option.Option<Redacted.Redacted>, value: string) =>
    Option.isSome(secret) && Redacted.value(secret.value) !== value
  required("LIVEKIT_API_KEY", Option.isSome(apiKey), "must be set in production")
  required(
    "LIVEKIT_API_SECRET",
    isNot(apiSecret, developmentSecret),
    "must be set in production, to something else than the development default",
  )
  required(
    "LIVEKIT_KEYS",
    moreKeys.every(({ secret }) => Redacted.value(secret) !== developmentSecret),
    "must not have the development default as a secret in production",
  )
  const names = [...Option.toArray(apiKey), ...moreKeys.map(({ key }) => key)]
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) lines.push(`LIVEKIT_KEYS: the key ${JSON.stringify(twice)} is named twice`)
  required(
    "CXB_CORE_SECRET",
    isNot(coreSecret, developmentCoreSecret),
    "must be set in production, to something else than the development default",
  )
  required(
    "DATABASE_URL",
    Option.isSome(databaseUrl) || embeddedDatabase,
    "must be set in production, or EMBEDDED_DATABASE=true for a single replica on the embedded database",
  )
  if (
    Option.isSome(apiKey) !== Option.isSome(apiSecret) &&
    !production &&
    !badNames.has("LIVEKIT_API_SECRET")
  ) {
    lines.push("LIVEKIT_API_KEY, LIVEKIT_API_SECRET: set both or neither")
  }
  const needsLiveKit = (name: string, used: boolean) => {
    if (used && Option.isNone(livekitUrl) && !badNames.has("LIVEKIT_URL"))
      lines.push(`${name}: agents are dispatched through LiveKit's API, so LIVEKIT_URL must be set, too`)
  }
  const notBeyond = (name: string, value: number, other: string, most: number) => {
    if (value > most && !badNames.has(name) && !badNames.has(other))
      lines.push(`${name}: must not be more than ${other}`)
  }
  notBeyond("HEADERS_TIMEOUT", limits.headersTimeoutMs, "REQUEST_TIMEOUT", limits.requestTimeoutMs)
  notBeyond("MAX_BODY_SIZE", limits.bodySize, "MAX_BODIES_SIZE", limits.bodiesSize)
  needsLiveKit("INBOUND_TARGET", inboundTarget === "agent")
  needsLiveKit("FALLBACK_AGENT", Option.isSome(fallbackAgent))
  if (lines.length > 0) return yield* new BadSettings({ lines })

  const apiKeys: ReadonlyArray<ApiKey> = [
    {
      key: Option.getOrElse(apiKey, () => developmentKey),
      secret: Option.getOrElse(apiSecret, () => Redacted.make(developmentSecret)),
    },
    ...moreKeys,
  ]
  const adminTokenMadeUp = !production && Option.isNone(adminToken)
  return {
    port,
    host,
    production,
    logLevel,
    database: Option.isSome(databaseUrl)
      ? { kind: "postgres", url: databaseUrl.value }
      : { kind: "embedded", dataDir },
    dataDir,
    apiKeys,
    livekitUrl,
    coreSecret: Option.getOrElse(coreSecret, () => Redacted.make(developmentCoreSecret)),
    coreFleet,
    inboundTrunks,
    outboundTrunks,
    requireDispatchRule,
    inboundTarget,
    defaultAgent,
    fallbackAgent,
    answerWithinMs,
    rescue,
    defaultRegion,
    webhookSecrets: Option.match(webhookSecret, {
      onNone: () => apiKeys.map(({ secret }) => secret),
      onSome: (secret) => [secret],
    }),
    sipInboundUnsigned,
    adminToken: adminTokenMadeUp
      ? Option.some(Redacted.make(randomBytes(24).toString("base64url")))
      : adminToken,
    adminTokenMadeUp,
    allowedSources,
    trustedProxies,
    rateLimitPerMinute,
    limits,
    maxInWork,
    developmentDefaults: Option.isNone(apiSecret) || Option.isNone(coreSecret),
  }
})

const fromFile = (path: string) => {
  try {
    return ConfigProvider.fromDotEnvContents(readFileSync(path, "utf8"))
  } catch {
    return ConfigProvider.fromEnvRecord({})
  }
}

/** The environment first, then `env.local`, then `.env`, both in the working directory and both optional. */
export const environment: Layer.Layer<never> = Layer.unwrap(
  Effect.sync(() =>
    ConfigProvider.layer(
      ConfigProvider.fromEnv().pipe(
        ConfigProvider.orElse(fromFile("env.local")),
        ConfigProvider.orElse(fromFile(".env")),
      ),
    ),
  ),
)

export class Settings extends Context.Service<Settings, SettingsShape>()("switchhook/Settings") {
  /** The settings of this process; building it fails with `BadSettings`. */
  static readonly layer = Layer.effect(Settings, readSettings)
}
