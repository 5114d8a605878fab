"""What most teams would write in Python: FastAPI, LiveKit's SDK, asyncpg with a query for each step, httpx."""

import hashlib
import json
import os
import uuid
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from livekit import api
from livekit.protocol.models import ParticipantInfo

FLEET = os.environ["CORE_FLEET"]
SECRET = os.environ["CXB_CORE_SECRET"]
receiver = api.WebhookReceiver(
    api.TokenVerifier(
        os.environ["LIVEKIT_API_KEY"], os.environ["LIVEKIT_API_SECRET"], leeway=timedelta(seconds=60)
    )
)


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], max_size=10)
    # No connection is used again that was idle for 2 s.
    app.state.http = httpx.AsyncClient(timeout=10, limits=httpx.Limits(keepalive_expiry=1.9))
    yield
    await app.state.http.aclose()
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)

DID = """
    SELECT d.id, d.tenant_id, t.name AS tenant, d.carrier_id, k.name AS carrier FROM dids d
    LEFT JOIN tenants t ON t.id = d.tenant_id LEFT JOIN carriers k ON k.id = d.carrier_id WHERE d.number = $1
"""

INSERT_CALL = """
    INSERT INTO calls (id, call_key, state, claim, owner, lease_until, attempts, worker, worker_url, metadata, target,
      explanation, claimed_at, direction, caller, caller_e164, dialed, dialed_e164, trunk_id, rule_id, sip_call_id,
      sip_call_id_full, participant_identity, room_key, room_name, room_sid, tenant_id, did_id,
      caller_first_joined_ms, caller_joined_ms)
    VALUES ($1, $2, 'handing', $3, 'fastapi', clock_timestamp() + interval '3 seconds', 1, $4, $4, $5, 'fleet',
      $6, clock_timestamp(), 'inbound', $7, $7, $8, $8, $9, $10, $11, $12, $13, $14, $15, $14, $16, $17, $18, $18)
    ON CONFLICT (call_key) DO NOTHING RETURNING id
"""

INSERT_ATTEMPT = """
    INSERT INTO dispatch_attempts (call_id, attempt, claim, worker, worker_url) VALUES ($1, 1, $2, $3, $3)
"""

STORE_ATTEMPT = """
    UPDATE dispatch_attempts SET outcome = $2, status = $3, ended_at = clock_timestamp() WHERE call_id = $1
"""

STORE_CALL = """
    UPDATE calls SET state = $2, outcome = $3, answer_status = $4, answer_type = $5, answer_body = $6,
      settled_at = clock_timestamp() WHERE id = $1
"""


def digest(*parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


async def insert_call(pool, event, did, row_id, claim_id):
    said = event.participant.attributes
    call_id, caller, dialed = said["sip.callID"], said["sip.phoneNumber"], said["sip.trunkPhoneNumber"]
    key = await pool.fetchval(
        "SELECT call_key_of($1, $2::text[], $3, false)",
        call_id,
        [call_id, said["sip.callIDFull"]],
        digest(event.room.name, caller),
    )
    did = did or {"id": None, "tenant_id": None, "tenant": None, "carrier_id": None, "carrier": None}
    metadata = {
        "call_type": "inbound",
        "phone_number_id": did["id"],
        "tenant_id": did["tenant_id"],
        "campaign_id": None,
        "from_number": caller,
        "to_number": dialed,
        "trunk_id": said["sip.trunkID"],
    }
    explanation = {
        "dialed_from": "sip.trunkPhoneNumber",
        "trunk": said["sip.trunkID"],
        "carrier": {"id": did["carrier_id"], "name": did["carrier"], "by": "number"},
        "route": {"number": dialed, "did": did["id"], "tenant": did["tenant_id"], "tenant_name": did["tenant"]},
        "considered": [{"worker": FLEET, "verdict": "picked", "load": 0}],
        "took_ms": {},
    }
    inserted = await pool.fetchval(
        INSERT_CALL,
        row_id,
        key,
        claim_id,
        FLEET,
        json.dumps(metadata, default=str),
        json.dumps(explanation, default=str),
        caller,
        dialed,
        said["sip.trunkID"],
        said["sip.ruleID"],
        call_id,
        said["sip.callIDFull"],
        event.participant.identity,
        event.room.sid,
        event.room.name,
        did["tenant_id"],
        did["id"],
        event.participant.joined_at_ms,
    )
    return key, inserted


async def replay(pool, key) -> Response:
    row = await pool.fetchrow("SELECT state, answer_type, answer_body FROM calls WHERE call_key = $1", key)
    if row is not None and row["state"] == "accepted":
        headers = {"switchhook-replayed": "true"}
        return Response(row["answer_body"], media_type=row["answer_type"], headers=headers)
    if row is None or row["state"] == "handing":
        return JSONResponse({"detail": "In flight elsewhere"}, 503)
    return JSONResponse({"ok": True, "replayed": True, "outcome": row["state"]})


async def store(pool, row_id, outcome, status, content_type, body):
    await pool.execute(STORE_ATTEMPT, row_id, outcome, status)
    state = "uncertain" if outcome == "ambiguous" else outcome
    await pool.execute(STORE_CALL, row_id, state, outcome, status, content_type, body)


async def dispatch(request: Request, event) -> Response:
    pool, http = request.app.state.pool, request.app.state.http
    said = event.participant.attributes
    did = await pool.fetchrow(DID, said["sip.trunkPhoneNumber"])
    row_id, claim_id = uuid.uuid4(), uuid.uuid4()
    key, inserted = await insert_call(pool, event, did, row_id, claim_id)
    if inserted is None:
        return await replay(pool, key)
    await pool.execute(INSERT_ATTEMPT, row_id, claim_id, FLEET)
    body = {
        "room_name": event.room.name,
        "caller_number": said["sip.phoneNumber"],
        "dialed_number": said["sip.trunkPhoneNumber"],
        "call_id": said["sip.callID"],
    }
    headers = {"x-cxb-core-secret": SECRET, "idempotency-key": str(row_id)}
    try:
        answer = await http.post(f"{FLEET}/livekit/dispatch", json=body, headers=headers)
    except httpx.HTTPError:
        await store(pool, row_id, "ambiguous", None, "", b"")
        return JSONResponse({"detail": "Dispatch failed"}, 502)
    content_type = answer.headers.get("content-type", "application/json")
    outcome = "accepted" if answer.is_success else "rejected"
    await store(pool, row_id, outcome, answer.status_code, content_type, answer.content)
    return Response(answer.content, answer.status_code, media_type=content_type)


def is_call(event) -> bool:
    return (
        event.event == "participant_joined"
        and event.participant.kind == ParticipantInfo.Kind.SIP
        and event.room.name.startswith("call-")
    )


@app.post("/api/v1/livekit/webhook")
async def webhook(request: Request) -> Response:
    token = request.headers.get("authorization")
    if token is None:
        return JSONResponse({"detail": "Missing auth"}, 401)
    body = await request.body()
    try:
        event = receiver.receive(body.decode(), token)
    except Exception:
        return JSONResponse({"detail": "Invalid signature"}, 401)
    if not is_call(event):
        return JSONResponse({"ok": True})
    return await dispatch(request, event)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
    )
