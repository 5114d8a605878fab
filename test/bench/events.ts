// Signed webhooks of calls that never were, as the bytes of whole requests: made before any clock starts.

import { createHash, createHmac } from "node:crypto"
import type { Kind } from "./works.ts"

/** Who signs, and which numbers are dialed: the same for all contenders. */
export const apiKey = "devkey"
export const apiSecret = "devsecretdevsecretdevsecretdevsecret"
export const coreSecret = "bench-core-secret"
export const webhookPath = "/api/v1/livekit/webhook"
export const trunk = "ST_kT47j77oQHrRW"
/** How many numbers the carrier has, unless the ledger is to be large. */
export const usualDids = 100

/** The nth number of the carrier. */
export const didNumber = (n: number): string => `+1888${String(5_500_000 + n)}`

/** The nth caller's number, each far from the one before. */
const callerNumber = (n: number): string => `+1555${String(1_000_000 + ((n * 7919) % 9_000_000))}`

/** A request, ready to be written on a socket. */
export interface Prepared {
  readonly bytes: Buffer
  readonly isCall: boolean
  /** What has to be answered. */
  readonly status: number
}

const encode = (text: string) => Buffer.from(text).toString("base64url")
const header = encode('{"alg":"HS256","typ":"JWT"}')

const sign = (body: Buffer, secret: string) => {
  const now = Math.floor(Date.now() / 1000)
  const sha256 = createHash("sha256").update(body).digest("base64")
  const claims = encode(JSON.stringify({ iss: apiKey, exp: now + 300, nbf: now, iat: now, sha256 }))
  return `${header}.${claims}.${createHmac("sha256", secret).update(`${header}.${claims}`).digest("base64url")}`
}

// As recorded from LiveKit, whose room events name every codec.
const codecs = ["PCMU", "PCMA", "opus", "red"].map((name) => ({ mime: `audio/${name}` }))
const videoCodecs = ["VP8", "H264", "VP9", "AV1", "H265", "rtx"].map((name) => ({ mime: `video/${name}` }))

const joinBody = (id: string, n: number, now: number, dids: number) => {
  const caller = callerNumber(n)
  const seconds = String(Math.floor(now / 1000))
  return {
    event: "participant_joined",
    room: {
      sid: `RM_${id}`,
      name: `call-_${caller}_${id}`,
      emptyTimeout: 300,
      departureTimeout: 20,
      creationTime: seconds,
      creationTimeMs: String(now),
      turnPassword: "KXzk98reMveCp63luLVIe2DAsyaufLkpnvevatuqd1jG",
      enabledCodecs: [...codecs, ...videoCodecs],
    },
    participant: {
      sid: `PA_${id}`,
      identity: `sip_${caller}`,
      state: "ACTIVE",
      joinedAt: seconds,
      joinedAtMs: String(now),
      name: `Phone ${caller}`,
      version: 2,
      permission: { canSubscribe: true, canPublish: true, canPublishData: true, canUpdateMetadata: true },
      kind: "SIP",
      attributes: {
        "sip.callID": `SCL_${id}`,
        "sip.callIDFull": `${id}@127.0.0.1`,
        "sip.callStatus": "ringing",
        "sip.callTag": "9649SIPpTag001",
        "sip.hostname": "127.0.0.1",
        "sip.phoneNumber": caller,
        "sip.ruleID": "SDR_NLKTzcWYD98L",
        "sip.trunkID": trunk,
        "sip.trunkPhoneNumber": didNumber(n % dids),
      },
    },
    id: `EV_${id}`,
    createdAt: seconds,
  }
}

const trackBody = (id: string, n: number, now: number) => ({
  event: n % 2 === 0 ? "track_published" : "track_unpublished",
  room: { sid: `RM_${id}`, name: `call-_+15551230002_${id}` },
  participant: { sid: `PA_${id}`, identity: "sip_+15551230002" },
  track: {
    sid: `TR_${id}`,
    name: "sip_+15551230002",
    source: "MICROPHONE",
    mimeType: "audio/opus",
    mid: "1",
    codecs: [
      { mimeType: "audio/opus", mid: "1", cid: "audio", videoLayerMode: "ONE_SPATIAL_LAYER_PER_STREAM" },
    ],
    stream: "camera",
    version: { unixMicro: String(now * 1000) },
    backupCodecPolicy: "SIMULCAST",
  },
  id: `EV_${id}`,
  createdAt: String(Math.floor(now / 1000)),
})

const toRequest = (body: unknown, secret: string) => {
  const bytes = Buffer.from(JSON.stringify(body))
  const head = [
    `POST ${webhookPath} HTTP/1.1`,
    "Host: 127.0.0.1",
    "User-Agent: Go-http-client/1.1",
    `Content-Length: ${bytes.length}`,
    `Authorization: ${sign(bytes, secret)}`,
    "Content-Type: application/webhook+json",
  ].join("\r\n")
  return Buffer.concat([Buffer.from(`${head}\r\n\r\n`), bytes])
}

/** One call in so many events. */
const callEvery = 40

// Ids are as random as LiveKit's, and of the same letters as those of a large ledger: in order, or of others, they would
// all go to one place of an index.
const scattered = (n: number) => (Math.imul(n + 1, 0x9e3779b1) >>> 0).toString(16).padStart(8, "0")

let made = 0

/**
 * The next event of that kind: distinct from all others of the run, which has a name of its own. Callers dial the
 * carrier's first `dids` numbers in turn.
 */
export const prepare = (kind: Exclude<Kind, "replay">, run: string, dids = usualDids): Prepared => {
  const n = made++
  const id = `${scattered(n)}${run}`
  const now = Date.now()
  const isCall = kind === "call" || (kind === "mix" && n % callEvery === 0)
  const body = isCall || kind === "refused" ? joinBody(id, n, now, dids) : trackBody(id, n, now)
  const secret = kind === "refused" ? `not ${apiSecret}` : apiSecret
  return { bytes: toRequest(body, secret), isCall, status: kind === "refused" ? 401 : 200 }
}
