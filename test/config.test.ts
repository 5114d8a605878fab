// The settings: their defaults, that every mistake is named at once, and that no secret is ever shown.

import { Effect, Option, Redacted, Result } from "effect"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { cases } from "./support/properties.ts"
import { settingsFrom, settingsOf } from "./support/settings.ts"

const result = (env: Record<string, string>) => Effect.runSync(Effect.result(settingsFrom(env)))
const mistakes = (env: Record<string, string>): ReadonlyArray<string> =>
  Result.match(result(env), { onSuccess: () => [], onFailure: ({ lines }) => lines })
const named = (env: Record<string, string>) => mistakes(env).map((line) => line.slice(0, line.indexOf(":")))

const secret = "correct-horse-battery-staple"
const production = {
  NODE_ENV: "production",
  LIVEKIT_API_KEY: "APIkey",
  LIVEKIT_API_SECRET: secret,
  CXB_CORE_SECRET: secret,
  DATABASE_URL: "postgres://user:password@host:5432/switchhook",
}
const without = (name: keyof typeof production) => {
  const { [name]: _, ...rest } = production
  return rest
}

const keysOf = (env: Record<string, string>) =>
  settingsOf(env).apiKeys.map(({ key, secret }) => [key, Redacted.value(secret)])

describe("the settings", () => {
  it("have defaults for development", () => {
    const settings = settingsOf({ DATA_DIR: "" })
    expect(settings).toMatchObject({
      answerWithinMs: 20_000,
      rescue: "failed",
      port: 3000,
      host: "0.0.0.0",
      production: false,
      logLevel: "Info",
      database: { kind: "embedded", dataDir: ".data" },
      coreFleet: Option.none(),
      outboundTrunks: new Set(),
      requireDispatchRule: false,
      developmentDefaults: true,
      limits: {
        headersTimeoutMs: 5_000,
        requestTimeoutMs: 10_000,
        keepAliveMs: 95_000,
        bodySize: 1024 * 1024,
        bodiesSize: 64 * 1024 * 1024,
        headersSize: 16 * 1024,
        headers: 100,
        connections: 10_000,
        connectionsPerSource: 5_000,
      },
      maxInWork: 256,
    })
    expect(keysOf({})).toEqual([["devkey", "secret"]])
    expect(Redacted.value(settings.coreSecret)).toBe("dev-core-secret")
  })

  it("are what the environment says", () => {
    const settings = settingsOf({
      ...production,
      PORT: "8080",
      HOST: "127.0.0.1",
      LOG_LEVEL: "DEBUG",
      CORE_FLEET: "http://a,http://b",
      LIVEKIT_OUTBOUND_TRUNK_ID: " ST_out1 , ST_out2,",
      REQUIRE_DISPATCH_RULE: "true",
      ANSWER_WITHIN: "7.5s",
      RESCUE: "all",
      HEADERS_TIMEOUT: "0.5",
      REQUEST_TIMEOUT: "0.5s",
      KEEP_ALIVE: "65 s",
      MAX_BODY_SIZE: "65536",
      MAX_BODIES_SIZE: "8MiB",
      MAX_HEADERS_SIZE: "32 KiB",
      MAX_HEADERS: "50",
      MAX_CONNECTIONS: "2000",
      MAX_CONNECTIONS_PER_SOURCE: "3000",
      MAX_IN_WORK: "64",
    })
    expect(settings).toMatchObject({
      limits: {
        headersTimeoutMs: 500,
        requestTimeoutMs: 500,
        keepAliveMs: 65_000,
        bodySize: 65_536,
        bodiesSize: 8 * 1024 * 1024,
        headersSize: 32 * 1024,
        headers: 50,
        connections: 2_000,
        connectionsPerSource: 3_000,
      },
      maxInWork: 64,
      answerWithinMs: 7_500,
      rescue: "all",
      port: 8080,
      host: "127.0.0.1",
      production: true,
      logLevel: "Debug",
      coreFleet: Option.some("http://a,http://b"),
      outboundTrunks: new Set(["ST_out1", "ST_out2"]),
      requireDispatchRule: true,
      developmentDefaults: false,
    })
    expect(settings.database.kind === "postgres" && Redacted.value(settings.database.url)).toBe(
      production.DATABASE_URL,
    )
    expect(Redacted.value(settings.coreSecret)).toBe(secret)
    expect(keysOf(production)).toEqual([["APIkey", secret]])
  })

  it("that are empty or white space count as absent", () => {
    const empty = Object.fromEntries(
      [
        "PORT",
        "HOST",
        "NODE_ENV",
        "LOG_LEVEL",
        "DATABASE_URL",
        "CORE_FLEET",
        "LIVEKIT_API_KEY",
        "LIVEKIT_KEYS",
      ].map((name, at) => [name, at % 2 === 0 ? "" : " \t"]),
    )
    expect(mistakes(empty)).toEqual([])
    expect(settingsOf(empty)).toMatchObject({ port: 3000, host: "0.0.0.0", coreFleet: Option.none() })
  })

  it("are not disturbed by variables of other programs", () => {
    const others = {
      PORT_SPEC: "x",
      HOST_NAME: "x",
      HOST_0: "x",
      NODE_ENV_FILE: "x",
      LOG_LEVEL_2: "x",
      PATH: "/bin",
    }
    expect(settingsOf(others)).toMatchObject({ port: 3000, host: "0.0.0.0", logLevel: "Info" })
    expect(settingsOf({ ...others, HOST: "::1" }).host).toBe("::1")
  })

  it("know whether a secret that anybody can read is in use", () => {
    const own = { LIVEKIT_API_KEY: "k", LIVEKIT_API_SECRET: secret, CXB_CORE_SECRET: secret }
    expect(settingsOf(own).developmentDefaults).toBe(false)
    expect(settingsOf({ CXB_CORE_SECRET: secret }).developmentDefaults).toBe(true)
    expect(settingsOf({ LIVEKIT_API_KEY: "k", LIVEKIT_API_SECRET: secret }).developmentDefaults).toBe(true)
  })
})

describe("a bad value", () => {
  it.each([
    ["PORT", "http"],
    ["PORT", "-1"],
    ["PORT", "65536"],
    ["PORT", "80.5"],
    ["PORT", "0x50"],
    ["PORT", "99999999999999999999"],
    ["NODE_ENV", "prod"],
    ["NODE_ENV", "Production"],
    ["LOG_LEVEL", "verbose"],
    ["LOG_LEVEL", "constructor"],
    ["DATABASE_URL", "mysql://host/db"],
    ["DATABASE_URL", "host:5432"],
    ["EMBEDDED_DATABASE", "maybe"],
    ["EMBEDDED_DATABASE", "constructor"],
    ["ANSWER_WITHIN", "4.9 s"],
    ["ANSWER_WITHIN", "1 minute"],
    ["RESCUE", "everything"],
    ["HEADERS_TIMEOUT", "0"],
    ["HEADERS_TIMEOUT", "5 ms"],
    ["REQUEST_TIMEOUT", "601"],
    ["KEEP_ALIVE", "-1"],
    ["MAX_BODY_SIZE", "1 MB"],
    ["MAX_BODY_SIZE", "1.5 MiB"],
    ["MAX_BODY_SIZE", "1"],
    ["MAX_BODIES_SIZE", "Infinity"],
    ["MAX_HEADERS_SIZE", "1 GiB"],
    ["MAX_HEADERS", "19"],
    ["MAX_CONNECTIONS", "0"],
    ["MAX_CONNECTIONS_PER_SOURCE", "many"],
    ["REQUIRE_DISPATCH_RULE", "on!"],
    ["REQUIRE_DISPATCH_RULE", "constructor"],
    ["REQUIRE_DISPATCH_RULE", "__proto__"],
    ["CXB_CORE_SECRET", "two words"],
    ["CXB_CORE_SECRET", "geheimnißvoll"],
    ["LIVEKIT_KEYS", "key"],
    ["LIVEKIT_KEYS", "key:"],
    ["LIVEKIT_KEYS", ":secret"],
    ["LIVEKIT_KEYS", "key:secret,other"],
  ])("of %s, %j, stops the start with one line that names it", (name, value) => {
    expect(named({ [name]: value })).toEqual([name])
  })

  it("is shown, cut to a length that fits a line, where it is no secret", () => {
    expect(mistakes({ PORT: "http" })[0]).toContain('"http"')
    expect(mistakes({ NODE_ENV: "x".repeat(5_000) })[0]!.length).toBeLessThan(300)
    expect(mistakes({ PORT: "80\n81" })[0]).not.toContain("\n")
  })

  it("is named together with all others, each in a line of its own", () => {
    const bad = {
      PORT: "x",
      NODE_ENV: "x",
      LOG_LEVEL: "x",
      DATABASE_URL: "x",
      LIVEKIT_KEYS: "x",
      REQUIRE_DISPATCH_RULE: "x",
    }
    expect(named(bad).sort()).toEqual(Object.keys(bad).sort())
    const failure = Result.getOrThrow(Result.flip(result(bad)))
    expect(failure.message.split("\n")).toEqual(failure.lines)
  })

  it("never shows a secret", () => {
    const env = {
      DATABASE_URL: `mysql://user:${secret}@host/db`,
      LIVEKIT_KEYS: `key:${secret},${secret}`,
      CXB_CORE_SECRET: `${secret} ${secret}`,
      LIVEKIT_API_SECRET: secret,
      NODE_ENV: "production",
    }
    expect(named(env)).toEqual(expect.arrayContaining(["DATABASE_URL", "LIVEKIT_KEYS", "CXB_CORE_SECRET"]))
    expect(mistakes(env).join("\n")).not.toContain(secret)
  })

  it("never shows a secret, and never breaks anything, whatever all values are", () => {
    const value = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom("", "true", "production", "80", "k:s"),
    )
    const plain = [
      "PORT",
      "HOST",
      "NODE_ENV",
      "LOG_LEVEL",
      "DATA_DIR",
      "EMBEDDED_DATABASE",
      "CORE_FLEET",
      "REQUIRE_DISPATCH_RULE",
    ]
    const secrets = ["DATABASE_URL", "LIVEKIT_API_SECRET", "LIVEKIT_KEYS", "CXB_CORE_SECRET"]
    const env = fc.dictionary(fc.constantFrom(...plain, "LIVEKIT_API_KEY"), value)
    const hidden = fc.dictionary(
      fc.constantFrom(...secrets),
      value.map((value) => `${value}${secret}${value}`),
    )
    fc.assert(
      fc.property(env, hidden, (env, hidden) => {
        for (const line of mistakes({ ...env, ...hidden })) {
          expect(line).toMatch(/^[A-Z_]+(?:, [A-Z_]+)*: /)
          expect(line).not.toContain(secret)
          expect(line).not.toContain("\n")
        }
      }),
      cases,
    )
  })

  it("does not show in good settings that somebody prints", () => {
    const settings = settingsOf({ ...production, LIVEKIT_KEYS: `next:${secret}` })
    for (const shown of [
      JSON.stringify(settings),
      String(settings.coreSecret),
      `${settings.apiKeys[1]?.secret}`,
    ]) {
      expect(shown).not.toContain(secret)
      expect(shown).not.toContain("password")
    }
  })
})

describe("the limits", () => {
  it("of a part are none beyond those of the whole", () => {
    expect(named({ HEADERS_TIMEOUT: "11 s" })).toEqual(["HEADERS_TIMEOUT"])
    expect(named({ HEADERS_TIMEOUT: "11 s", REQUEST_TIMEOUT: "11 s" })).toEqual([])
    expect(named({ HEADERS_TIMEOUT: "11 s", REQUEST_TIMEOUT: "x" })).toEqual(["REQUEST_TIMEOUT"])
    expect(named({ MAX_BODIES_SIZE: "1 MiB" })).toEqual([])
    expect(named({ MAX_BODY_SIZE: "2 MiB", MAX_BODIES_SIZE: "1 MiB" })).toEqual(["MAX_BODY_SIZE"])
  })
})

describe("production", () => {
  it("takes settings that are all its own", () => {
    expect(mistakes(production)).toEqual([])
  })

  it.each(["LIVEKIT_API_KEY", "LIVEKIT_API_SECRET", "CXB_CORE_SECRET", "DATABASE_URL"] as const)(
    "does not start without %s",
    (name) => {
      expect(named(without(name))).toEqual([name])
    },
  )

  it("names everything that is missing at once", () => {
    expect(named({ NODE_ENV: "production" })).toEqual([
      "LIVEKIT_API_KEY",
      "LIVEKIT_API_SECRET",
      "CXB_CORE_SECRET",
      "DATABASE_URL",
    ])
  })

  it("names what is both wrong and required once only", () => {
    expect(named({ ...production, DATABASE_URL: "x", CXB_CORE_SECRET: "x y" }).sort()).toEqual([
      "CXB_CORE_SECRET",
      "DATABASE_URL",
    ])
  })

  it("refuses the secrets of development, also where they are set by hand", () => {
    expect(named({ ...production, LIVEKIT_API_SECRET: "secret" })).toEqual(["LIVEKIT_API_SECRET"])
    expect(named({ ...production, CXB_CORE_SECRET: "dev-core-secret" })).toEqual(["CXB_CORE_SECRET"])
    expect(named({ ...production, LIVEKIT_KEYS: "devkey:secret" })).toEqual(["LIVEKIT_KEYS"])
  })

  it("takes the embedded database only where that is asked for", () => {
    const embedded = { ...without("DATABASE_URL"), DATA_DIR: "/var/lib/switchhook" }
    expect(named({ ...embedded, EMBEDDED_DATABASE: "false" })).toEqual(["DATABASE_URL"])
    expect(settingsOf({ ...embedded, EMBEDDED_DATABASE: "true" }).database).toEqual({
      kind: "embedded",
      dataDir: "/var/lib/switchhook",
    })
  })
})

describe("development", () => {
  it("does not start with half a LiveKit key", () => {
    expect(mistakes({ LIVEKIT_API_KEY: "k" })).toHaveLength(1)
    expect(mistakes({ LIVEKIT_API_KEY: "k" })[0]).toContain("LIVEKIT_API_SECRET")
    expect(mistakes({ LIVEKIT_API_SECRET: secret })[0]).toContain("LIVEKIT_API_KEY")
    expect(mistakes({ LIVEKIT_API_KEY: "k", LIVEKIT_API_SECRET: secret })).toEqual([])
  })
})

describe("LIVEKIT_KEYS", () => {
  it("adds keys to the first one, in their order", () => {
    expect(keysOf({ LIVEKIT_KEYS: "a:1, b:2 ,c:3," })).toEqual([
      ["devkey", "secret"],
      ["a", "1"],
      ["b", "2"],
      ["c", "3"],
    ])
  })

  it("takes everything after the first colon for the secret", () => {
    expect(keysOf({ LIVEKIT_KEYS: "a:1:2:3" })[1]).toEqual(["a", "1:2:3"])
  })

  it("reads back whatever pairs were written", () => {
    const text = fc.string({ unit: fc.constantFrom(..."abcXYZ019-_=+/."), minLength: 1, maxLength: 40 })
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.tuple(text, text), { minLength: 1, maxLength: 5, selector: ([key]) => key }),
        (pairs) => {
          expect(keysOf({ LIVEKIT_KEYS: pairs.map((pair) => pair.join(":")).join(" , ") }).slice(1)).toEqual(
            pairs,
          )
        },
      ),
      cases,
    )
  })

  it("refuses a key that is named twice, for only one of its secrets could be right", () => {
    const again = { LIVEKIT_API_KEY: "a", LIVEKIT_API_SECRET: "hush-1", LIVEKIT_KEYS: "b:hush-2,a:hush-3" }
    expect(() => settingsOf(again)).toThrow('LIVEKIT_KEYS: the key "a" is named twice')
  })
})

describe("PORT and the switches", () => {
  it("are read from every usable spelling, and from no other", () => {
    fc.assert(
      fc.property(fc.integer({ min: -70_000, max: 140_000 }), (port) => {
        const usable = port >= 0 && port <= 65_535
        expect(named({ PORT: String(port) })).toEqual(usable ? [] : ["PORT"])
        if (usable) expect(settingsOf({ PORT: ` ${port} ` }).port).toBe(port)
      }),
      cases,
    )
    for (const [raw, value] of Object.entries({
      true: true,
      TRUE: true,
      "1": true,
      yes: true,
      false: false,
      "0": false,
      No: false,
    })) {
      expect(settingsOf({ REQUIRE_DISPATCH_RULE: raw }).requireDispatchRule, raw).toBe(value)
    }
  })
})
