// A certificate authority and a certificate for the loopback, made anew for each run: no key lies in the repository.

import { generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto"

// ---- DER, as far as a certificate needs it

const der = (tag: number, ...contents: ReadonlyArray<Uint8Array>): Buffer => {
  const content = Buffer.concat(contents)
  const { length } = content
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...size]), content])
}

const sequence = (...contents: ReadonlyArray<Uint8Array>) => der(0x30, ...contents)
const oid = (hex: string) => der(0x06, Buffer.from(hex, "hex"))

const ecdsaWithSha256 = sequence(oid("2a8648ce3d040302"))
const nameOf = (commonName: string) =>
  sequence(der(0x31, sequence(oid("550403"), der(0x0c, Buffer.from(commonName)))))

const time = (date: Date) =>
  der(
    0x17,
    Buffer.from(
      date
        .toISOString()
        .replace(/[-:T]|\.\d+/g, "")
        .slice(2),
    ),
  )

const dayMs = 24 * 60 * 60 * 1000
const validity = () => sequence(time(new Date(Date.now() - dayMs)), time(new Date(Date.now() + dayMs)))

const isAuthority = sequence(
  oid("551d13"),
  der(0x01, Buffer.from([0xff])),
  der(0x04, sequence(der(0x01, Buffer.from([0xff])))),
)
const forLoopback = sequence(
  oid("551d11"),
  der(0x04, sequence(der(0x82, Buffer.from("localhost")), der(0x87, Buffer.from([127, 0, 0, 1])))),
)

// ---- Certificates

interface Party {
  readonly name: string
  readonly publicKey: KeyObject
  readonly privateKey: KeyObject
}

const party = (name: string): Party => ({ name, ...generateKeyPairSync("ec", { namedCurve: "P-256" }) })

const pem = (content: Buffer) =>
  `-----BEGIN CERTIFICATE-----\n${content.toString("base64").replace(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`

const certify = (subject: Party, issuer: Party, extension: Buffer): string => {
  const serial = Buffer.concat([Buffer.from([0x01]), randomBytes(7)])
  const content = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ecdsaWithSha256,
    nameOf(issuer.name),
    validity(),
    nameOf(subject.name),
    subject.publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(extension)),
  )
  const signature = sign("sha256", content, issuer.privateKey)
  return pem(sequence(content, ecdsaWithSha256, der(0x03, Buffer.from([0]), signature)))
}

/** What a TLS server needs, and the authority that its clients must trust; all PEM. */
export const makeCertificate = () => {
  const authority = party("Switchhook tests")
  const server = party("localhost")
  return {
    authority: certify(authority, authority, isAuthority),
    cert: certify(server, authority, forLoopback),
    key: server.privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  }
}
