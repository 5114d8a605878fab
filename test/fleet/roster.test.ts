// The setting `core_fleet`: every form of it, and that no mistake in it breaks anything or shows a secret.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { parseRoster } from "../../src/fleet/roster.ts"
import { cases } from "../support/properties.ts"

const urls = (value: unknown) => parseRoster(value).entries.map(({ url }) => url)

describe("the roster", () => {
  it("comes as a list of URLs or of objects, as either written in a string, or with commas", () => {
    const wanted = ["http://a:8080", "https://b.example"]
    const objects = wanted.map((url) => ({ url }))
    for (const value of [
      wanted,
      objects,
      [wanted[0], objects[1]],
      JSON.stringify(wanted),
      JSON.stringify(objects),
      ` ${JSON.stringify(objects)}\n`,
      wanted.join(","),
      ` ${wanted.join(" , ")} , `,
    ]) {
      expect(urls(value), JSON.stringify(value)).toEqual(wanted)
      expect(parseRoster(value).problems).toEqual([])
    }
  })

  it.each([[undefined], [null], [""], [" "], [","], ["[]"], [[]]])(
    "of %j is empty, and that is no mistake",
    (value) => {
      expect(parseRoster(value)).toEqual({ entries: [], problems: [] })
    },
  )

  it("keeps what is said of a worker", () => {
    const said = { url: "http://a", name: "Anna", capacity: 30, weight: 2.5, draining: true }
    expect(parseRoster([said]).entries).toEqual([said])
  })

  it("says of a worker of which only the URL is known: its host as name, weight 1, not draining", () => {
    expect(parseRoster("http://a:8080/core").entries).toEqual([
      { url: "http://a:8080/core", name: "a:8080/core", capacity: undefined, weight: 1, draining: false },
    ])
  })

  it.each([
    ["http://a/", "http://a"],
    ["http://a//", "http://a"],
    ["HTTP://A:80/Core/", "http://a/Core"],
    ["https://a:443", "https://a"],
    [" http://a ", "http://a"],
    ["http://[::1]:9000/", "http://[::1]:9000"],
    ["http://a/b c", "http://a/b%20c"],
  ])("writes %j as %j", (written, url) => {
    expect(urls([written])).toEqual([url])
  })

  it("leaves out what is no http(s) URL, names it, and keeps the others in their order", () => {
    const bad = [
      "a:8080",
      "worker-1",
      "ftp://a",
      "file:///etc",
      "javascript:alert(1)",
      "http://",
      "http://a:99999",
      "http://a b",
      "http://a?x=1",
      "http://a#x",
    ]
    const { entries, problems } = parseRoster(["http://first", ...bad, "http://last"])
    expect(entries.map(({ url }) => url)).toEqual(["http://first", "http://last"])
    expect(problems).toHaveLength(bad.length)
    bad.forEach((entry, at) => {
      expect(problems[at]).toContain(entry)
    })
  })

  it.each([
    { url: "http://bad", capacity: 0 },
    { url: "http://bad", capacity: -1 },
    { url: "http://bad", capacity: "30" },
    { url: "http://bad", weight: 0 },
    { url: "http://bad", weight: -1 },
    { url: "http://bad", draining: "yes" },
    { url: "http://bad", name: "" },
    { url: 7 },
    { address: "http://bad" },
    {},
    null,
    7,
    true,
    ["http://bad"],
  ])("leaves out the entry %j and names it", (entry) => {
    const { entries, problems } = parseRoster([entry, "http://good"])
    expect(entries.map(({ url }) => url)).toEqual(["http://good"])
    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(JSON.stringify(entry))
  })

  it.each([[7], [true], [{ url: "http://a" }], ["["], ['["http://a"'], ["[not json]"]])(
    "that is %j has no entries, and says why",
    (value) => {
      const { entries, problems } = parseRoster(value)
      expect(entries).toEqual([])
      expect(problems).toHaveLength(1)
      expect(problems[0]).toContain("core_fleet")
    },
  )

  it("has a worker once, however often and in whatever spelling it is listed", () => {
    const { entries, problems } = parseRoster([
      { url: "http://a", name: "first" },
      "http://b",
      { url: "HTTP://A:80/", name: "second" },
    ])
    expect(entries.map(({ name }) => name)).toEqual(["first", "b"])
    expect(problems).toEqual(["http://a is listed twice"])
  })

  it("reads unknown fields as if they were not there", () => {
    expect(urls([{ url: "http://a", region: "eu", labels: { x: 1 } }])).toEqual(["http://a"])
    expect(urls(JSON.parse('[{"url":"http://a","__proto__":{"weight":0}}]'))).toEqual(["http://a"])
  })

  it("survives JSON that is nested 100,000 deep", () => {
    const nested = "[".repeat(100_000) + "]".repeat(100_000)
    for (const value of [nested, JSON.parse(nested), `[{"url":${nested}}]`]) {
      const { entries, problems } = parseRoster(value)
      expect(entries).toEqual([])
      expect(problems).toHaveLength(1)
    }
  })
})

describe("whatever the setting is", () => {
  const hosts = fc.constantFrom(
    "a",
    "b.example",
    "10.0.0.7",
    "[::1]",
    "worker-1:8080",
    "worker-2:99999",
    "",
    "ä.example",
  )
  const written = fc
    .tuple(
      fc.constantFrom("http://", "https://", "HTTP://", "ftp://", "//", ""),
      hosts,
      fc.constantFrom("", "/", "/x/", "?q", "#f", " "),
    )
    .map((parts) => parts.join(""))
  const entry = fc.oneof(
    written,
    fc.record(
      {
        url: fc.oneof(written, fc.jsonValue()),
        name: fc.oneof(fc.string(), fc.jsonValue()),
        capacity: fc.oneof(
          fc.integer(),
          fc.double(),
          fc.constantFrom(0, Number.MAX_VALUE, Number.MIN_VALUE, "7"),
        ),
        weight: fc.oneof(
          fc.integer(),
          fc.double(),
          fc.constantFrom(0, Number.MAX_VALUE, Number.MIN_VALUE, "7"),
        ),
        draining: fc.oneof(fc.boolean(), fc.jsonValue()),
      },
      { requiredKeys: [] },
    ),
    fc.jsonValue(),
  )
  const list = fc.array(entry, { maxLength: 8 })
  const setting = fc.oneof(
    list,
    list.map((entries) => JSON.stringify(entries)),
    fc.array(written, { maxLength: 8 }).map((entries) => entries.join(",")),
    fc.jsonValue(),
    fc.string({ unit: "binary" }),
    fc.string().map((text) => `[${text}`),
    fc.constant(undefined),
  )

  it("reading it never throws, and every entry of the roster is usable", () => {
    let entriesSeen = 0
    fc.assert(
      fc.property(setting, (setting) => {
        const { entries, problems } = parseRoster(setting)
        entriesSeen += entries.length
        expect(new Set(entries.map(({ url }) => url)).size).toBe(entries.length)
        for (const { capacity, draining, name, url, weight } of entries) {
          const health = new URL(`${url}/health`)
          expect(health.protocol).toMatch(/^https?:$/)
          expect(health.href).toBe(`${url}/health`)
          expect(health.host).not.toBe("")
          expect(health.username + health.password + health.search + health.hash).toBe("")
          expect(name).not.toBe("")
          expect(weight).toBeGreaterThan(0)
          expect(Number.isFinite(weight)).toBe(true)
          expect(capacity === undefined || (Number.isFinite(capacity) && capacity > 0)).toBe(true)
          expect(typeof draining).toBe("boolean")
        }
        for (const problem of problems) expect(problem).not.toBe("")
      }),
      cases,
    )
    expect(entriesSeen).toBeGreaterThan(100)
  })

  it("every entry of a list is either in the roster or named by a problem", () => {
    fc.assert(
      fc.property(list, (list) => {
        const { entries, problems } = parseRoster(list)
        expect(entries.length + problems.length).toBe(list.length)
        expect(parseRoster(JSON.stringify(list))).toEqual(parseRoster(JSON.parse(JSON.stringify(list))))
      }),
      cases,
    )
  })
})

describe("credentials in a URL", () => {
  const shown = (value: unknown) => {
    const { entries, problems } = parseRoster(value)
    expect(entries).toEqual([])
    expect(problems.length).toBeGreaterThan(0)
    return problems.join("\n")
  }

  it.each([
    ["a plain one", "http://core:hunter2@a:8080"],
    ["one with an @ in the password", "http://core:hun@hunter2@a:8080"],
    ["one with a slash in the password", "http://core:hun/hunter2@a:8080"],
    ["one without slashes", "http:core:hunter2@a:8080"],
    ["one with backslashes", "http:\\\\core:hunter2@a:8080"],
    ["one of another protocol", "redis://core:hunter2@a:6379"],
    ["one in an entry that has another mistake", { url: "http://core:hunter2@a", capacity: -1 }],
    ["one in an entry with a wrong field name", { address: "http://core:hunter2@a" }],
    ["one in a list in a list", [["http://core:hunter2@a"]]],
  ])("do not appear in a problem: %s", (_, entry) => {
    expect(shown([entry])).not.toContain("hunter2")
  })

  it.each([
    ["JSON that is cut off", '["http://core:hunter2@a"'],
    ["an object in place of the list", { url: "http://core:hunter2@a" }],
    ["an object written in a string", '{"url":"http://core:hunter2@a"}'],
    ["a list with commas", "http://core:hunter2@a,http://core:hunter2@b"],
  ])("do not appear in a problem: %s", (_, setting) => {
    expect(shown(setting)).not.toContain("hunter2")
  })

  it("do not appear in a problem, whatever they are and wherever the URL stands", () => {
    const letters = fc.string({ unit: fc.constantFrom(..."abcXYZ019!$&'()*+;=~%-._:@"), maxLength: 6 })
    const password = fc.tuple(letters, letters).map(([before, after]) => `${before}hunter2${after}`)
    const place = fc.constantFrom(
      (url: string): unknown => [url],
      (url: string) => url,
      (url: string) => JSON.stringify([url]),
      (url: string) => [{ url }],
      (url: string) => [{ url, weight: 0 }],
      (url: string) => [{ url, name: 7 }],
      (url: string) => [[url]],
      (url: string) => ({ url }),
      (url: string) => `[${JSON.stringify(url)}`,
    )
    fc.assert(
      fc.property(
        place,
        password,
        fc.constantFrom("http://", "https://", "ws://"),
        (place, password, protocol) => {
          expect(shown(place(`${protocol}core:${password}@worker-1:8080`))).not.toContain("hunter2")
        },
      ),
      cases,
    )
  })
})
