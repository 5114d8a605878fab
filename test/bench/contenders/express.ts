// What most teams would write: Express, LiveKit's SDK, a pool with a query for each step, fetch.

import { createHash, randomUUID } from "node:crypto"
import { join } from "node:path"
import { PGlite } from "@electric-sql/pglite"
import express from "express"
import { type WebhookEvent, WebhookReceiver } from "livekit-server-sdk"
import pg from "pg"
import { Agent, fetch } from "undici"

const { CORE_FLEET = "", CXB_CORE_SECRET = "", DATABASE_URL, DATA_DIR = "" } = process.env
const receiver = new WebhookReceiver(process.env["LIVEKIT_API_KEY"]!, process.env["LIVEKIT_API_SECRET"]!)

// Node's own fetch, but that no connection is used again that was idle for 2 s.
const dispatcher = new Agent({ keepAliveTimeout: 1_900, keepAliveMaxTimeout: 1_900 })

const pool = DATABASE_URL === undefined ? undefined : new pg.Pool({ connectionString: DATABASE_URL })
const pglite = pool === undefined ? await PGlite.create(join(DATA_DIR, "pglite")) : undefined

const query = async (text: string, values: Array<unknown>): Promise<Array<Record<string, any>>> =>
  pool === undefined
    ? (await pglite!.query<Record<string, any>>(text, values)).rows
    : (await pool.query(text, values)).rows

const hash = (...parts: Array<string>) =>
  `sha256:${createHash("sha256")
    .update(parts.map((part) => `${part.length}:${part}`).join(""))
    .digest("hex")}`

const insertCall = async (event: WebhookEvent, did: Record<string, any> | undefined) => {
  const { participant, room } = event
  const attributes = participant!.attributes
  const callId = attributes["sip.callID"] ?? ""
  const caller = attributes["sip.phoneNumber"] ?? ""
  const dialed = attributes["sip.trunkPhoneNumber"] ?? ""
  const [named] = await query("SELECT call_key_of($1, $2::text[], $3, false) AS key", [
    callId,
    [callId, attributes["sip.callIDFull"] ?? ""],
    hash(room!.name, caller),
  ])
  const metadata = {
    call_type: "inbound",
    phone_number_id: did?.["id"],
    tenant_id: did?.["tenant_id"],
    campaign_id: null,
    from_number: caller,
    to_number: dialed,
    trunk_id: attributes["sip.trunkID"],
  }
  const explanation = {
    dialed_from: "sip.trunkPhoneNumber",
    trunk: attributes["sip.trunkID"],
    carrier: { id: did?.["carrier_id"], name: did?.["carrier"], by: "number" },
    route: { number: dialed, did: did?.["id"], tenant: did?.["tenant_id"], tenant_name: did?.["tenant"] },
    considered: [{ worker: CORE_FLEET, verdict: "picked", load: 0 }],
    took_ms: {},
  }
  const [inserted] = await query(
    `INSERT INTO calls (id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, metadata, target,
       explanation, claimed_at, direction, caller, caller_e164, dialed, dialed_e164, trunk_id, rule_id, sip_call_id,
       sip_call_id_full, participant_identity, room_key, room_name, room_sid, tenant_id, did_id,
       caller_first_joined_ms, caller_joined_ms)
     VALUES ($1, $2, 'handing', $3, 'express', clock_timestamp() + interval '3 seconds', 1, $4, $4, $5, 'fleet',
       $6, clock_timestamp(), 'inbound', $7, $7, $8, $8, $9, $10, $11, $12, $13, $14, $15, $14, $16, $17, $18, $18)
     ON CONFLICT (call_key) DO NOTHING RETURNING id, claim`,
    [
      randomUUID(),
      named!["key"],
      randomUUID(),
      CORE_FLEET,
      JSON.stringify(metadata),
      JSON.stringify(explanation),
      caller,
      dialed,
      attributes["sip.trunkID"],
      attributes["sip.ruleID"],
      callId,
      attributes["sip.callIDFull"],
      participant!.identity,
      room!.sid,
      room!.name,
      did?.["tenant_id"],
      did?.["id"],
      Number(participant!.joinedAtMs),
    ],
  )
  return { key: named!["key"], inserted }
}

const relay = (event: WebhookEvent, rowId: string) =>
  fetch(`${CORE_FLEET}/livekit/dispatch`, {
    method: "POST",
    dispatcher,
    signal: AbortSignal.timeout(10_000),
    redirect: "manual",
    headers: {
      "content-type": "application/json",
      "x-cxb-core-secret": CXB_CORE_SECRET,
      "idempotency-key": rowId,
    },
    body: JSON.stringify({
      room_name: event.room!.name,
      caller_number: event.participant!.attributes["sip.phoneNumber"] ?? "",
      dialed_number: event.participant!.attributes["sip.trunkPhoneNumber"] ?? "",
      call_id: event.participant!.attributes["sip.callID"] ?? "",
    }),
  })

const store = async (rowId: string, outcome: string, status: number | null, type: string, body: string) => {
  await query(
    "UPDATE dispatch_attempts SET outcome = $2, status = $3, ended_at = clock_timestamp() WHERE call_id = $1",
    [rowId, outcome, status],
  )
  await query(
    `UPDATE calls SET state = $2, outcome = $3, answer_status = $4, answer_type = $5,
       answer_body = convert_to($6, 'UTF8'), settled_at = clock_timestamp() WHERE id = $1`,
    [rowId, outcome === "ambiguous" ? "uncertain" : outcome, outcome, status, type, body],
  )
}

const replay = async (response: express.Response, key: string) => {
  const [row] = await query("SELECT state, answer_type, answer_body FROM calls WHERE call_key = $1", [key])
  if (row?.["state"] === "accepted") {
    response.set("switchhook-replayed", "true").type(row["answer_type"]).send(Buffer.from(row["answer_body"]))
  } else if (row?.["state"] === "handing") response.status(503).json({ detail: "In flight elsewhere" })
  else response.json({ ok: true, replayed: true, outcome: row?.["state"] })
}

const dispatch = async (response: express.Response, event: WebhookEvent) => {
  const dialed = event.participant!.attributes["sip.trunkPhoneNumber"] ?? ""
  const [did] = await query(
    `SELECT d.id, d.tenant_id, t.name AS tenant, d.carrier_id, k.name AS carrier FROM dids d
       LEFT JOIN tenants t ON t.id = d.tenant_id LEFT JOIN carriers k ON k.id = d.carrier_id WHERE d.number = $1`,
    [dialed],
  )
  const { inserted, key } = await insertCall(event, did)
  if (inserted === undefined) return replay(response, key)
  const { claim, id } = inserted
  await query(
    "INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url) VALUES ($1, 1, $2, $3, $3)",
    [id, claim, CORE_FLEET],
  )
  try {
    const answer = await relay(event, id)
    const body = await answer.text()
    const type = answer.headers.get("content-type") ?? "application/json"
    await store(id, answer.ok ? "accepted" : "rejected", answer.status, type, body)
    response.status(answer.status).type(type).send(body)
  } catch {
    await store(id, "ambiguous", null, "", "")
    response.status(502).json({ detail: "Dispatch failed" })
  }
}

// ParticipantInfo.Kind of LiveKit's protocol.
const sip = 3

const isCall = ({ event, participant, room }: WebhookEvent) =>
  event === "participant_joined" &&
  Number(participant?.kind) === sip &&
  room?.name.startsWith("call-") === true

const app = express()
app.use(express.raw({ type: "application/webhook+json", limit: "1mb" }))

app.post("/api/v1/livekit/webhook", async (request, response) => {
  const authorization = request.get("authorization")
  if (authorization === undefined) return void response.status(401).json({ detail: "Missing auth" })
  let event: WebhookEvent
  try {
    event = await receiver.receive(request.body.toString("utf8"), authorization, false, 60)
  } catch {
    return void response.status(401).json({ detail: "Invalid signature" })
  }
  if (!isCall(event)) return void response.json({ ok: true })
  await dispatch(response, event)
})

app.listen(Number(process.env["PORT"]), process.env["HOST"] ?? "127.0.0.1")
process.once("SIGTERM", () => process.exit(0))
