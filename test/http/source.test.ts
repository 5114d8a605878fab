// Who a request is from, and that nobody passes for somebody else.

import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { isAllowed, sourceOf } from "../../src/http/source.ts"
import { cases } from "../support/properties.ts"
import { settingsOf } from "../support/settings.ts"

const networks = (list: string) => settingsOf({ TRUSTED_PROXIES: list }).trustedProxies

const proxies = networks("10.0.0.0/8, 2001:db8:ffff::/48")

const from = (remote: string | undefined, forwardedFor?: string, trusted = proxies) =>
  sourceOf(remote, forwardedFor, trusted).address

const bucketOf = (remote: string) => sourceOf(remote, undefined, []).bucket

const allowed = (remote: string | undefined, list: string) =>
  isAllowed(sourceOf(remote, undefined, []), networks(list))

describe("the address", () => {
  it.each([
    ["203.0.113.7", "203.0.113.7"],
    ["::ffff:203.0.113.7", "203.0.113.7"],
    ["::FFFF:cb00:7107", "203.0.113.7"],
    ["::ffff:203.0.113.7%eth0", "203.0.113.7"],
    ["2001:DB8:0:0:0:0:0:1", "2001:db8::1"],
    ["fe80::1%eth0", "fe80::1"],
    ["fe80::1%br-lan.100", "fe80::1"],
    ["::1", "::1"],
  ])("of %s is %s", (remote, address) => {
    expect(from(remote)).toBe(address)
  })

  it("of ::10.0.0.1 is not 10.0.0.1, which may be trusted", () => {
    expect(from("::10.0.0.1", "203.0.113.7")).toBe("::a00:1")
  })

  it.each([
    undefined,
    "",
    "somebody",
    "8",
    "010.0.0.1",
    "0x7f.1",
    "1.2.3",
    "1.2.3.4:5",
    "1.2.3.4%x",
    "/run/x",
  ])("of %j is unknown, whatever is forwarded", (remote) => {
    const everybody = networks("0.0.0.0/0, ::/0")
    expect(sourceOf(remote, "203.0.113.7", everybody)).toEqual({ address: "unknown", bucket: "unknown" })
  })
})

describe("the bucket", () => {
  it("is the address itself in IPv4", () => {
    expect(bucketOf("203.0.113.7")).toBe("203.0.113.7")
    expect(bucketOf("::ffff:203.0.113.7")).toBe("203.0.113.7")
  })

  it("is the /64 in IPv6", () => {
    expect(bucketOf("2001:db8:1:2:3:4:5:6")).toBe("2001:db8:1:2::/64")
    expect(bucketOf("2001:db8:1:2::")).toBe("2001:db8:1:2::/64")
    expect(bucketOf("2001:db8:1:3::1")).toBe("2001:db8:1:3::/64")
    expect(bucketOf("::1")).toBe("::/64")
  })

  it("is one for two addresses only where they are one, or share their first 64 bits", () => {
    const word = fc.constantFrom("0", "1", "ffff", "a00")
    const ipv6 = fc.array(word, { minLength: 8, maxLength: 8 })
    const subnet = (words: ReadonlyArray<string>) => words.slice(0, 4).join(":")
    fc.assert(
      fc.property(ipv6, ipv6, (one, other) => {
        const [first, second] = [one, other].map((words) => sourceOf(words.join(":"), undefined, []))
        // An IPv4 address in IPv6's clothes counts alone.
        fc.pre(!first?.address.includes(".") && !second?.address.includes("."))
        expect(first?.bucket === second?.bucket).toBe(subnet(one) === subnet(other))
      }),
      cases,
    )
  })
})

const expectEndsAt = (garbage: string) => {
  expect(from("10.0.0.1", garbage)).toBe("10.0.0.1")
  expect(from("10.0.0.1", `198.51.100.1, ${garbage}, 10.0.0.2`)).toBe("10.0.0.2")
  expect(from("10.0.0.1", `${garbage}, 198.51.100.1, 10.0.0.2`)).toBe("198.51.100.1")
}

describe("X-Forwarded-For", () => {
  it("counts for nothing where the peer is no trusted proxy", () => {
    expect(from("203.0.113.7", "198.51.100.1")).toBe("203.0.113.7")
    expect(from("203.0.113.7", "10.0.0.1")).toBe("203.0.113.7")
    expect(from("10.0.0.1", "198.51.100.1", [])).toBe("10.0.0.1")
  })

  it("is read from the right, past trusted proxies, to the first address that is not trusted", () => {
    expect(from("10.0.0.1", "198.51.100.1")).toBe("198.51.100.1")
    expect(from("10.0.0.1", "192.0.2.66, 198.51.100.1")).toBe("198.51.100.1")
    expect(from("10.0.0.1", "192.0.2.66,198.51.100.1 , 10.9.9.9,10.0.0.2")).toBe("198.51.100.1")
    expect(from("10.0.0.1", "192.0.2.66, 10.0.0.3, 198.51.100.1, 10.0.0.2")).toBe("198.51.100.1")
    expect(from("2001:db8:ffff::1", "2001:db8::7, 10.0.0.2")).toBe("2001:db8::7")
  })

  it("is believed of a trusted proxy in whichever notation it comes", () => {
    expect(from("::ffff:10.0.0.1", "198.51.100.1")).toBe("198.51.100.1")
    expect(from("10.0.0.1", "198.51.100.1, ::ffff:10.0.0.2")).toBe("198.51.100.1")
    expect(from("10.0.0.1", "198.51.100.1", networks("::ffff:10.0.0.0/104"))).toBe("198.51.100.1")
  })

  it("leads to the first of the proxies where everybody in it is one", () => {
    expect(from("10.0.0.1", "10.0.0.3, 10.0.0.2")).toBe("10.0.0.3")
    expect(from("10.0.0.1")).toBe("10.0.0.1")
  })

  it("may name ports and zones", () => {
    expect(from("10.0.0.1", "198.51.100.1:5678")).toBe("198.51.100.1")
    expect(from("10.0.0.1", "[2001:db8::1]:443")).toBe("2001:db8::1")
    expect(from("10.0.0.1", "[2001:db8::1]")).toBe("2001:db8::1")
    expect(from("10.0.0.1", "[fe80::1%eth0]:443")).toBe("fe80::1")
    expect(from("10.0.0.1", "198.51.100.1:1, [::ffff:10.0.0.2]:80, 10.0.0.3:65535")).toBe("198.51.100.1")
  })

  it.each([
    "",
    ",",
    "unknown",
    "_hidden",
    "8",
    "010.0.0.9",
    "0x0a.0.0.9",
    "10.0.0.256",
    "198.51.100.1:",
    "198.51.100.1:port",
    "[198.51.100.1",
    "[]:80",
    '"198.51.100.1"',
    "for=198.51.100.1",
    "198.51.100.1;",
    "198.51.100.1 10.0.0.2",
    "\0",
  ])("ends at the last good address where %j follows", (garbage) => {
    expectEndsAt(garbage)
  })

  it("ends there, too, where the garbage is long", () => {
    for (const part of ["1", ":", "1:", "1::", "[", "%", "1.", "a", " "]) {
      expectEndsAt(part.repeat(5_000))
      expectEndsAt(`fe80::1%${part.repeat(5_000)}!`)
    }
    expect(from("10.0.0.1", "10.0.0.2, ".repeat(5_000))).toBe("10.0.0.1")
    expect(from("10.0.0.1", `198.51.100.1${", 10.0.0.2".repeat(5_000)}`)).toBe("198.51.100.1")
  })

  const address = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.nat(255).map((n) => `10.0.0.${n}`),
  )

  it("changes nothing about a client, whatever that sends, once a trusted proxy has appended its address", () => {
    const sent = fc.oneof(fc.string({ unit: "binary" }), fc.array(address).map(String))
    const untrusted = address.filter((text) => !isAllowed(sourceOf(text, undefined, []), proxies))
    fc.assert(
      fc.property(sent, untrusted, (sent, client) => {
        const alone = sourceOf(client, undefined, proxies)
        expect(sourceOf("10.0.0.1", `${sent}, ${client}`, proxies)).toEqual(alone)
        expect(sourceOf("10.0.0.1", `${sent},${client},10.0.0.2`, proxies)).toEqual(alone)
        expect(sourceOf(client, sent, proxies)).toEqual(alone)
      }),
      cases,
    )
  })

  it("never breaks anything, and a known peer never becomes an unknown source", () => {
    const text = fc.oneof(address, fc.string({ unit: "binary" }), fc.stringMatching(/^[0-9a-f:.[\]%, ]*$/))
    const lists = fc.constantFrom("", "10.0.0.0/8", "0.0.0.0/0", "::/0", "0.0.0.0/0, ::/0", "::ffff:0:0/90")
    fc.assert(
      fc.property(address, text, fc.array(text), lists, (peer, remote, hops, list) => {
        const trusted = networks(list)
        sourceOf(remote, hops.join(","), trusted)
        const source = sourceOf(peer, hops.join(","), trusted)
        expect(source.address).not.toBe("unknown")
        // Normal is normal: the address again gives the same source.
        expect(sourceOf(source.address, undefined, [])).toEqual(source)
      }),
      cases,
    )
  })
})

describe("a source is allowed", () => {
  it("whoever it is, where nobody is named", () => {
    for (const remote of ["203.0.113.7", "::1", undefined]) expect(allowed(remote, "")).toBe(true)
  })

  it("where a network holds it", () => {
    expect(allowed("203.0.113.7", "203.0.113.7")).toBe(true)
    expect(allowed("203.0.113.7", "198.51.100.0/24, 203.0.113.0/24")).toBe(true)
    expect(allowed("203.0.113.7", "203.0.113.200/24")).toBe(true)
    expect(allowed("203.0.113.7", "0.0.0.0/0")).toBe(true)
    expect(allowed("2001:db8::7", "2001:db8::/32")).toBe(true)
    expect(allowed("fe80::1%eth0", "fe80::/10")).toBe(true)
  })

  it("and not where none does", () => {
    expect(allowed("203.0.113.8", "203.0.113.7")).toBe(false)
    expect(allowed("203.0.114.7", "203.0.113.0/24, 2001:db8::/32")).toBe(false)
    expect(allowed("2001:db9::7", "2001:db8::/32")).toBe(false)
    expect(allowed("2001:db8::7", "0.0.0.0/0")).toBe(false)
    expect(allowed("203.0.113.7", "::/0")).toBe(false)
  })

  it("as IPv4 where either side is an IPv4-mapped address", () => {
    expect(allowed("::ffff:203.0.113.7", "203.0.113.0/24")).toBe(true)
    expect(allowed("203.0.113.7", "::ffff:203.0.113.7")).toBe(true)
    expect(allowed("203.0.113.7", "::ffff:203.0.113.0/120")).toBe(true)
    expect(allowed("203.0.114.7", "::ffff:203.0.113.0/120")).toBe(false)
    expect(allowed("203.0.113.7", "::ffff:0:0/96")).toBe(true)
    expect(allowed("203.0.113.7", "::ffff:0:0/90")).toBe(false)
  })

  it("but an unknown one by no network", () => {
    expect(allowed(undefined, "0.0.0.0/0, ::/0")).toBe(false)
  })
})
