// Who sends a request: the address that may be allowed or not, and the bucket that its requests count in.

import { isIP } from "node:net"
import ipaddr from "ipaddr.js"
import type { Network } from "../config.ts"

/** Who sent a request. */
export interface Source {
  /** Normalised: lower case, IPv4 wherever it is one, no zone; `unknown` where the socket tells none. */
  readonly address: string
  /** What counts as one source: an IPv4 address, or the /64 that one subscriber of IPv6 gets whole. */
  readonly bucket: string
}

type Address = ipaddr.IPv4 | ipaddr.IPv6

const unknown: Source = { address: "unknown", bucket: "unknown" }

const withoutMapping = (address: Address): Address =>
  address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress() ? address.toIPv4Address() : address

// Node decides what an address is: ipaddr.js alone also takes `010.1`, `0x7f.1` and `8`.
const parse = (text: string): Address | undefined => {
  if (isIP(text) === 0) return undefined
  // ipaddr.js takes the ancient `::1.2.3.4` for `::ffff:1.2.3.4`, but it is an address of its own.
  const plain = text.replace(/%.*$/s, "").replace(/^::(?=\d+\.)/, "::0:")
  return ipaddr.isValid(plain) ? withoutMapping(ipaddr.parse(plain)) : undefined
}

const parseHop = (entry: string): Address | undefined => {
  const withPort = /^(?:\[([^\]]*)\]|([\d.]+))(?::\d{1,5})?$/.exec(entry)
  return parse(withPort?.[1] ?? withPort?.[2] ?? entry)
}

const isIn = (address: Address, [network, prefix]: Network): boolean => {
  const plain = withoutMapping(network)
  if (address.kind() !== plain.kind()) return false
  // `::ffff:10.0.0.0/104` is 10.0.0.0/8; one that reaches beyond the mapped addresses holds no IPv4 address.
  const bits = plain === network ? prefix : prefix - 96
  return bits >= 0 && address.match(plain, bits)
}

const isInAny = (address: Address, networks: ReadonlyArray<Network>): boolean =>
  networks.some((network) => isIn(address, network))

const toSource = (address: Address): Source => {
  const text = address.toString()
  if (address instanceof ipaddr.IPv4) return { address: text, bucket: text }
  const subnet = new ipaddr.IPv6([...address.parts.slice(0, 4), 0, 0, 0, 0])
  return { address: text, bucket: `${subnet}/64` }
}

// Requests come from few addresses, and reading one takes longer than most that is asked about it.
const peers = new Map<string, Source>()
const mostPeers = 1_000

const ofPeer = (remoteAddress: string): Source => {
  const known = peers.get(remoteAddress)
  if (known !== undefined) return known
  const address = parse(remoteAddress)
  const source = address === undefined ? unknown : toSource(address)
  if (peers.size >= mostPeers) peers.clear()
  peers.set(remoteAddress, source)
  return source
}

/**
 * Who sent a request, by its socket and, where that is a trusted proxy's, by `X-Forwarded-For`.
 * Each proxy appends whom it heard from, so the header is read from its right, as far as trusted proxies
 * wrote it: whatever stands left of the first untrusted address, or of what is no address, may be forged.
 */
export const sourceOf = (
  remoteAddress: string | undefined,
  forwardedFor: string | undefined,
  trusted: ReadonlyArray<Network>,
): Source => {
  if (forwardedFor === undefined || trusted.length === 0) return ofPeer(remoteAddress ?? "")
  let address = parse(remoteAddress ?? "")
  if (address === undefined) return unknown
  const hops = forwardedFor.split(",")
  while (hops.length > 0 && isInAny(address, trusted)) {
    const hop = parseHop((hops.pop() ?? "").trim())
    if (hop === undefined) break
    address = hop
  }
  return toSource(address)
}

/** Whether a source may call us: everybody where the list is empty, never an unknown one where it is not. */
export const isAllowed = ({ address }: Source, allowed: ReadonlyArray<Network>): boolean => {
  if (allowed.length === 0) return true
  const parsed = parse(address)
  return parsed !== undefined && isInAny(parsed, allowed)
}
