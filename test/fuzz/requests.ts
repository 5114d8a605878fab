// A delivery on the wire: its bytes, its signature, and the connection it goes over.

import { createHmac } from "node:crypto"
import { Agent, request } from "node:http"
import { apiSecret } from "../support/service.ts"
import { makeToken } from "../support/tokens.ts"
import { type Damage, type Delivery, nonce, paths, type Signing } from "./cases.ts"
import type { Answer } from "./expected.ts"

const turnBit = (bytes: Uint8Array, at: number): Uint8Array => {
  const turned = new Uint8Array(bytes)
  if (turned.length > 0) turned[(at >> 3) % turned.length]! ^= 1 << (at & 7)
  return turned
}

const cut = (text: string, at: number) => text.slice(0, 1 + (at % (text.length - 1)))

const damagedToken = (token: string, how: Damage, at: number): string => {
  const parts = token.split(".")
  const place = at % parts.length
  switch (how) {
    case "turn a bit":
      // Of the bytes: the last letter of a part has bits that mean nothing.
      parts[place] = Buffer.from(turnBit(Buffer.from(parts[place]!, "base64url"), at)).toString("base64url")
      return parts.join(".")
    case "drop a part":
      return parts.toSpliced(place, 1).join(".")
    case "repeat a part":
      return parts.toSpliced(place, 0, parts[place]!).join(".")
    case "swap parts":
      return [parts[1], parts[2], parts[0]].join(".")
    case "cut":
      return cut(token, at)
  }
}

const damagedHmac = (hex: string, how: Damage, at: number): string => {
  if (how === "turn a bit") return Buffer.from(turnBit(Buffer.from(hex, "hex"), at)).toString("hex")
  return how === "repeat a part" ? hex + hex : cut(hex, at)
}

const signatureOf = ({ damage, form, header, token }: Signing, body: Uint8Array): string => {
  const isToken = header === "authorization"
  const whole = isToken ? makeToken(body, token) : createHmac("sha256", apiSecret).update(body).digest("hex")
  const signature =
    damage === undefined ? whole : (isToken ? damagedToken : damagedHmac)(whole, damage.how, damage.at)
  return form.replaceAll("%", signature)
}

/** The bytes of a delivery, for that run of its case, and the headers that sign them. */
export const wireOf = (
  delivery: Delivery,
  run: string,
): { readonly bytes: Uint8Array; readonly headers: Record<string, string> } => {
  const { encoding, headers, signing, text, turned } = delivery
  const signed = Buffer.from(text.replaceAll(nonce, run), encoding)
  return {
    bytes: turned === undefined ? signed : turnBit(signed, turned),
    headers: { ...headers, [signing.header]: signatureOf(signing, signed) },
  }
}

/** Connections that are kept, as LiveKit keeps its own. */
export const openConnections = (most: number): Agent => new Agent({ keepAlive: true, maxSockets: most })

const patienceMs = 20_000

/** Posts bytes and waits for the whole answer. Rejects where none comes. */
export const send = (
  agent: Agent,
  origin: string,
  url: Delivery["url"],
  wire: ReturnType<typeof wireOf>,
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { bytes, headers } = wire
    const length = "transfer-encoding" in headers ? {} : { "content-length": String(bytes.length) }
    const options = { agent, method: "POST", headers: { ...headers, ...length }, timeout: patienceMs }
    const sent = request(origin + paths[url], options, (response) => {
      const chunks: Array<Buffer> = []
      response.on("data", (chunk: Buffer) => chunks.push(chunk))
      response.on("error", reject)
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: Buffer.concat(chunks).toString("utf8"),
        }),
      )
    })
    sent.on("timeout", () => sent.destroy(new Error(`no answer within ${patienceMs} ms`)))
    sent.on("error", reject)
    sent.end(bytes)
  })
