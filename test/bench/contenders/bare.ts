// The limit that is aimed at: the same work by hand in one file, with the same libraries and no framework.
//
// Verifies, filters, claims in one statement, relays, stores. No watch, no failover, no renewal of leases, no limits.

import { createHash, randomUUID } from "node:crypto"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import { hostname } from "node:os"
import { join } from "node:path"
import { PGlite } from "@electric-sql/pglite"
import { type WebhookEvent, WebhookReceiver } from "livekit-server-sdk"
import pg from "pg"
import { Pool } from "undici"

const env = (name: string) => process.env[name] ?? ""
const receiver = new WebhookReceiver(env("LIVEKIT_API_KEY"), env("LIVEKIT_API_SECRET"))
const coreSecret = env("CXB_CORE_SECRET")
const owner = `${hostname()}:${process.pid}`

// A worker may close an idle connection just as we write on it: none is used again that was idle for 2 s.
const toWorker = { connect: { timeout: 1_000 }, keepAliveTimeout: 1_900, keepAliveMaxTimeout: 1_900 }
const workers = env("CORE_FLEET")
  .split(",")
  .map((url) => ({ url, name: new URL(url).host, pool: new Pool(url, toWorker) }))
type Worker = (typeof workers)[number]

type Rows = Promise<ReadonlyArray<Record<string, any>>>
type Run = (name: string, text: string, values: Array<unknown>) => Rows

const overPostgres = (url: string): Run => {
  const pool = new pg.Pool({ connectionString: url, max: 10, keepAlive: true })
  pool.on("error", () => {})
  return async (name, text, values) => (await pool.query({ name, text, values })).rows
}

const inProcess = async (directory: string): Promise<Run> => {
  const pglite = await PGlite.create(directory)
  return async (_, text, values) => (await pglite.query<Record<string, any>>(text, values)).rows
}

const run: Run =
  env("DATABASE_URL") === ""
    ? await inProcess(join(env("DATA_DIR"), "pglite"))
    : overPostgres(env("DATABASE_URL"))

interface Did {
  readonly id: string
  readonly tenant_id: string | null
  readonly tenant: string | null
  readonly carrier_id: string | null
  readonly carrier: string | null
}

const dids = new Map<string, Did>()
for (const row of await run(
  "dids",
  `SELECT d.number, d.id, d.tenant_id, t.name AS tenant, d.carrier_id, k.name AS carrier
   FROM dids d LEFT JOIN tenants t ON t.id = d.tenant_id LEFT JOIN carriers k ON k.id = d.carrier_id`,
  [],
))
  dids.set(row["number"], row as Did)

const claimSql = `
  WITH who AS MATERIALIZED (SELECT call_key_of($1, $2::text[], $3, false) AS key),
  claimed AS (
    INSERT INTO calls AS c (id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, metadata,
      target, explanation, claimed_at, direction, caller, caller_e164, dialed, dialed_e164, trunk_id, rule_id,
      sip_call_id, sip_call_id_full, participant_identity, room_key, room_name, room_sid, tenant_id, did_id,
      caller_first_joined_ms, caller_joined_ms)
    SELECT $4::uuid, who.key, 'handing', $5::uuid, $6, clock_timestamp() + interval '3 seconds', 1, $7, $8, $9,
      'fleet', $10::jsonb, clock_timestamp(), 'inbound', $11, $12, $13, $14, $15, $16,
      $17, $18, $19, $20, $21, $22, $23::uuid, $24::uuid, $25::bigint, $25::bigint
    FROM who
    ON CONFLICT (call_key) DO UPDATE SET state = 'handing', claim = excluded.claim, owner = excluded.owner,
      lease_until = excluded.lease_until, attempts = c.attempts + 1, worker = excluded.worker,
      worker_url = excluded.worker_url, claimed_at = excluded.claimed_at
    WHERE c.state = 'waiting'
    RETURNING id, attempts
  ), attempt AS (
    INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url)
    SELECT id, attempts, $5::uuid, $7, $8 FROM claimed
  )
  SELECT true AS won, id, attempts, '' AS state, 0 AS answer_status, '' AS answer_type, ''::bytea AS answer_body
  FROM claimed
  UNION ALL
  SELECT false, c.id, c.attempts, c.state, c.answer_status, c.answer_type, c.answer_body
  FROM who JOIN calls c ON c.call_key = who.key WHERE NOT EXISTS (SELECT 1 FROM claimed)`

const settleSql = `
  WITH ended AS (
    UPDATE dispatch_attempts SET outcome = $3, status = $4, ended_at = clock_timestamp()
    WHERE call_id = $1::uuid AND attempt = $2 AND outcome IS NULL RETURNING call_id
  )
  UPDATE calls c SET state = $5, outcome = $3, unsent = c.unsent + $6, answer_status = $4, answer_type = $7,
    answer_body = $8, settled_at = clock_timestamp(),
    explanation = jsonb_set(c.explanation, '{took_ms}', (c.explanation->'took_ms') || $9::jsonb)
  FROM ended WHERE c.id = ended.call_id`

const send = (response: ServerResponse, status: number, type: string, body: string | Uint8Array) => {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) })
  response.end(body)
}

const refuse = (response: ServerResponse, status: number, detail: string) =>
  send(
    response,
    status,
    "application/problem+json",
    JSON.stringify({ type: "about:blank", title: detail, status, detail }),
  )

const read = (request: IncomingMessage) =>
  new Promise<Buffer>((resolve, reject) => {
    const chunks: Array<Buffer> = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("end", () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)))
    request.on("error", reject)
  })

const hash = (...parts: ReadonlyArray<string>) => {
  const digest = createHash("sha256")
  for (const part of parts) digest.update(`${Buffer.byteLength(part)}:`).update(part)
  return `sha256:${digest.digest("hex")}`
}

const isE164 = /^\+[1-9]\d{1,14}$/

const callOf = ({ participant, room }: WebhookEvent) => {
  const { attributes = {}, identity = "" } = participant ?? {}
  const said = (name: string) => attributes[name] ?? ""
  const caller = said("sip.phoneNumber") || /^sip[_-](\+?\d+)$/.exec(identity)?.[1] || ""
  const dialed = said("sip.calledNumber") || said("sip.trunkPhoneNumber")
  const roomName = room?.name ?? ""
  const roomKey = room?.sid || roomName
  return {
    caller,
    dialed,
    identity,
    roomName,
    roomKey,
    roomSid: room?.sid ?? "",
    callId: said("sip.callID"),
    callIdFull: said("sip.callIDFull"),
    key: said("sip.callID") || hash(roomKey, identity),
    trunk: said("sip.trunkID"),
    rule: said("sip.ruleID"),
    joinedMs: Number(participant?.joinedAtMs ?? 0n),
    did: dids.get(dialed),
  }
}

type Call = ReturnType<typeof callOf>

const claim = (call: Call, worker: Worker, authenticateMs: number) => {
  const { did } = call
  const metadata = {
    call_type: "inbound",
    phone_number_id: did?.id ?? null,
    tenant_id: did?.tenant_id ?? null,
    campaign_id: null,
    from_number: call.caller,
    to_number: call.dialed,
    trunk_id: call.trunk,
  }
  const explanation = {
    dialed_from: "sip.trunkPhoneNumber",
    trunk: call.trunk,
    carrier: did && { id: did.carrier_id, name: did.carrier, by: "number" },
    route: {
      number: call.dialed,
      did: did?.id,
      tenant: did?.tenant_id,
      tenant_name: did?.tenant,
      target: "fleet",
    },
    considered: [{ worker: worker.name, verdict: "picked", load: 0 }],
    took_ms: { authenticate: authenticateMs },
  }
  return run("claim", claimSql, [
    call.key,
    [call.key, call.callIdFull],
    hash(call.roomName, call.caller),
    randomUUID(),
    randomUUID(),
    owner,
    worker.name,
    worker.url,
    JSON.stringify(metadata),
    JSON.stringify(explanation),
    call.caller,
    isE164.test(call.caller) ? call.caller : null,
    call.dialed,
    isE164.test(call.dialed) ? call.dialed : null,
    call.trunk,
    call.rule,
    call.callId,
    call.callIdFull,
    call.identity,
    call.roomKey,
    call.roomName,
    call.roomSid,
    did?.tenant_id,
    did?.id,
    call.joinedMs,
  ])
}

const unsent = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "UND_ERR_CONNECT_TIMEOUT"])

const relay = async ({ callId, caller, dialed, roomName }: Call, { pool }: Worker, key: string) => {
  try {
    const { body, headers, statusCode } = await pool.request({
      path: "/livekit/dispatch",
      method: "POST",
      headersTimeout: 10_000,
      headers: {
        "content-type": "application/json",
        "x-cxb-core-secret": coreSecret,
        "idempotency-key": key,
      },
      body: JSON.stringify({
        room_name: roomName,
        caller_number: caller,
        dialed_number: dialed,
        call_id: callId,
      }),
    })
    const bytes = new Uint8Array(await body.arrayBuffer())
    const type = String(headers["content-type"] ?? "application/json")
    const accepted = statusCode >= 200 && statusCode < 300
    return { outcome: accepted ? "accepted" : "rejected", status: statusCode, type, bytes }
  } catch (error) {
    const outcome = unsent.has((error as NodeJS.ErrnoException).code ?? "") ? "not-sent" : "ambiguous"
    return { outcome, status: null, type: null, bytes: null }
  }
}

const states: Record<string, string> = {
  accepted: "accepted",
  rejected: "rejected",
  "not-sent": "waiting",
  ambiguous: "uncertain",
}

const replay = (response: ServerResponse, row: Record<string, any> | undefined) => {
  if (row?.["state"] === "accepted") {
    response.setHeader("switchhook-replayed", "true")
    return send(response, 200, row["answer_type"], row["answer_body"])
  }
  if (row === undefined || row["state"] === "handing") return refuse(response, 503, "In flight elsewhere")
  const outcome = row["state"] === "rejected" ? "rejected" : "ambiguous"
  send(response, 200, "application/json", JSON.stringify({ ok: true, replayed: true, outcome }))
}

let turn = 0

const dispatch = async (response: ServerResponse, call: Call, authenticateMs: number) => {
  const worker = workers[turn++ % workers.length]!
  const [row] = await claim(call, worker, authenticateMs)
  if (row?.["won"] !== true) return replay(response, row)
  const startedAt = performance.now()
  const { bytes, outcome, status, type } = await relay(call, worker, row["id"])
  const relayMs = performance.now() - startedAt
  await run("settle", settleSql, [
    row["id"],
    row["attempts"],
    outcome,
    status,
    states[outcome],
    outcome === "not-sent" ? 1 : 0,
    type,
    bytes,
    JSON.stringify({ relay: relayMs }),
  ])
  if (status === null || bytes === null) return refuse(response, 502, "Dispatch failed")
  send(response, status, type, bytes)
}

// ParticipantInfo.Kind of LiveKit's protocol.
const sip = 3

const isCall = ({ event, participant, room }: WebhookEvent) =>
  event === "participant_joined" &&
  Number(participant?.kind) === sip &&
  room?.name.startsWith("call-") === true &&
  participant?.attributes["sip.callStatus"] !== "dialing"

const onWebhook = async (request: IncomingMessage, response: ServerResponse) => {
  const { authorization } = request.headers
  const body = await read(request)
  if (authorization === undefined) return refuse(response, 401, "Missing auth")
  const startedAt = performance.now()
  let event: WebhookEvent
  try {
    event = await receiver.receive(body.toString("utf8"), authorization.replace(/^Bearer /i, ""), false, 60)
  } catch {
    return refuse(response, 401, "Invalid signature")
  }
  if (!isCall(event)) return send(response, 200, "application/json", '{"ok":true}')
  await dispatch(response, callOf(event), performance.now() - startedAt)
}

const server = createServer((request, response) => {
  if (request.method !== "POST" || request.url !== "/api/v1/livekit/webhook")
    return refuse(response, 404, "Not found")
  onWebhook(request, response).catch(() => refuse(response, 503, "Database unavailable"))
})
server.listen(Number(env("PORT")), env("HOST"))
process.once("SIGTERM", () => process.exit(0))
