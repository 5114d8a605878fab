-- The call log, the leads, the sessions and the answerers.
--
-- Events come late, twice and out of order. So nothing here is moved from one status to the next: statements
-- merge facts, by minimum and maximum, and what the log says follows from all facts of a call and its room.
-- `derive_call` is the only place that draws the conclusion.

-- History outlives the configuration it was made under.
ALTER TABLE calls
  DROP CONSTRAINT calls_tenant_id_fkey,
  DROP CONSTRAINT calls_campaign_id_fkey,
  DROP CONSTRAINT calls_did_id_fkey;

-- Exactly the text that an agent was given, not merely what it means.
ALTER TABLE calls ALTER COLUMN metadata TYPE text USING metadata::text;

ALTER TABLE calls
  -- Set where somebody asked us which agent to dispatch: the id they gave the call.
  ADD COLUMN asked_id text,

  -- Facts. Times are milliseconds since 1970 by LiveKit's clock. A leave ends every join that is not newer than
  -- its own (caller_left_ms), so the columns of the leave are those of the newest join that was left.
  ADD COLUMN caller_first_joined_ms bigint,
  ADD COLUMN left_at_ms bigint,
  ADD COLUMN left_aborted boolean,
  ADD COLUMN left_status text,
  ADD COLUMN left_reason text,

  -- What follows from them.
  ADD COLUMN started_at_ms bigint,
  ADD COLUMN answered_at_ms bigint,
  ADD COLUMN ended_at_ms bigint,
  ADD COLUMN ring_ms bigint,
  ADD COLUMN duration_ms bigint,
  ADD COLUMN hung_up_by text CHECK (hung_up_by IN ('caller', 'us')),
  ADD COLUMN end_reason text,
  ADD COLUMN answerers integer NOT NULL DEFAULT 0,
  -- Stays true when a reconnect reopens the call, so that no call is counted twice.
  ADD COLUMN ended_once boolean NOT NULL DEFAULT false,
  ADD COLUMN lead_created boolean NOT NULL DEFAULT false,
  ADD CONSTRAINT calls_status_check CHECK (status IN ('ringing', 'active', 'completed', 'missed', 'failed'));

CREATE INDEX calls_of_lead ON calls (lead_id, started_at_ms) WHERE lead_id IS NOT NULL;

-- An attempt is made with a worker or with an agent, which has a name and no URL.
ALTER TABLE dispatch_attempts
  ADD COLUMN target text NOT NULL DEFAULT 'fleet' CHECK (target IN ('fleet', 'agent')),
  ALTER COLUMN worker_url DROP NOT NULL;

-- Every name a call goes by: sip.callID, sip.callIDFull, the id of whoever asks, the room with the caller.
-- Whoever writes a name first decides which row of `calls` it stands for.
CREATE TABLE call_aliases (
  alias text PRIMARY KEY,
  call_key text NOT NULL
);

DROP TABLE sessions;

-- One row per room: its sid, else its name, is the key.
CREATE TABLE sessions (
  room_key text PRIMARY KEY,
  room_sid text NOT NULL,
  room_name text NOT NULL,
  -- The first and the last `room_started` seen; two different ones mean that LiveKit had crashed in between.
  started_at_ms bigint,
  restarted_at_ms bigint,
  ended_at_ms bigint,
  status text NOT NULL GENERATED ALWAYS AS (
    CASE WHEN ended_at_ms IS NOT NULL THEN 'stopped' WHEN started_at_ms IS NOT NULL THEN 'live' ELSE 'ready' END
  ) STORED,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX sessions_live ON sessions (created_at) WHERE status = 'live';

-- Whoever may answer a caller of the room: an agent, a person, a leg that we called and that picked up.
CREATE TABLE answerers (
  room_key text NOT NULL,
  participant text NOT NULL,
  identity text NOT NULL,
  kind text NOT NULL,
  -- Of a leg: its own call, which it does not answer.
  call_key text,
  joined_ms bigint NOT NULL,
  left_at_ms bigint,
  PRIMARY KEY (room_key, participant)
);

-- The key of the call that these names stand for; names nobody knows stand for `own` from now on.
-- `meeting` is the room with the caller, for calls whose ids do not meet: it counts between somebody who asks and
-- a join, for as long as a caller may ring, because the same caller may call the same room again tomorrow.
CREATE FUNCTION call_key_of(own text, names text[], meeting text, asks boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  key text := own;
  name text;
  holder text;
  other record;
  is_new boolean := false;
BEGIN
  -- Everybody in the same order, or two deliveries could wait for each other.
  FOR name IN SELECT DISTINCT n FROM unnest(names) n WHERE n <> '' ORDER BY n LOOP
    SELECT a.call_key INTO holder FROM call_aliases a WHERE a.alias = name;
    IF NOT FOUND THEN
      INSERT INTO call_aliases (alias, call_key) VALUES (name, own) ON CONFLICT DO NOTHING;
      is_new := is_new OR FOUND;
      SELECT a.call_key INTO holder FROM call_aliases a WHERE a.alias = name;
    END IF;
    IF holder <> own THEN key := holder; END IF;
  END LOOP;

  IF key = own AND is_new AND meeting <> '' THEN
    SELECT a.call_key INTO holder FROM call_aliases a WHERE a.alias = meeting;
    IF NOT FOUND THEN
      INSERT INTO call_aliases (alias, call_key) VALUES (meeting, own) ON CONFLICT DO NOTHING;
      SELECT a.call_key INTO holder FROM call_aliases a WHERE a.alias = meeting;
    END IF;
    IF holder <> own THEN
      SELECT c.asked_id, c.sip_call_id, c.direction, c.created_at > clock_timestamp() - interval '3 minutes' AS fresh
        INTO other FROM calls c WHERE c.call_key = holder;
      IF other.fresh AND other.direction IS DISTINCT FROM 'outbound' AND (
        CASE WHEN asks THEN other.asked_id IS NULL
        ELSE other.asked_id IS NOT NULL AND coalesce(other.sip_call_id, '') = '' END)
      THEN
        key := holder;
      ELSE
        -- Another call of theirs: whoever comes next means this one.
        UPDATE call_aliases SET call_key = own WHERE alias = meeting;
      END IF;
    END IF;
  END IF;

  IF key <> own THEN
    UPDATE call_aliases SET call_key = key WHERE alias = ANY (names) AND call_key = own;
  END IF;
  RETURN key;
END
$$;

-- What the log says of a call, from its own facts and those of its room.
--
-- A leave's time has whole seconds, so whoever answered within that second counts as having been there.
CREATE FUNCTION derive_call(c calls) RETURNS calls LANGUAGE plpgsql AS $$
DECLARE
  room_ended_ms bigint;
  has_left boolean;
BEGIN
  c.started_at_ms := coalesce(c.caller_first_joined_ms, (extract(epoch FROM c.created_at) * 1000)::bigint);
  IF c.direction IS DISTINCT FROM 'inbound' THEN RETURN c; END IF;

  has_left := coalesce(c.caller_left_ms >= coalesce(c.caller_joined_ms, c.caller_left_ms), false);
  SELECT s.ended_at_ms INTO room_ended_ms FROM sessions s WHERE s.room_key = c.room_key;
  c.ended_at_ms := CASE
    WHEN has_left THEN c.left_at_ms
    WHEN room_ended_ms + 999 >= coalesce(c.caller_joined_ms, 0) THEN room_ended_ms END;

  SELECT min(greatest(a.joined_ms, c.caller_first_joined_ms)), count(DISTINCT a.identity)
    INTO c.answered_at_ms, c.answerers
    FROM answerers a
    WHERE a.room_key = c.room_key AND c.room_key <> ''
      AND (c.ended_at_ms IS NULL OR a.joined_ms <= c.ended_at_ms + 999)
      AND (a.left_at_ms IS NULL OR c.caller_first_joined_ms IS NULL
        OR greatest(a.left_at_ms + 999, a.joined_ms) >= c.caller_first_joined_ms)
      AND a.call_key IS DISTINCT FROM c.call_key
      AND NOT EXISTS (
        SELECT 1 FROM call_aliases n JOIN calls o ON o.call_key = n.call_key
        WHERE n.alias = a.call_key AND o.direction = 'inbound');

  c.status := CASE
    WHEN c.ended_at_ms IS NULL THEN CASE WHEN c.answered_at_ms IS NULL THEN 'ringing' ELSE 'active' END
    WHEN has_left AND c.left_aborted THEN 'failed'
    WHEN c.answered_at_ms IS NULL THEN 'missed'
    ELSE 'completed' END;
  c.ended_once := c.ended_once OR c.ended_at_ms IS NOT NULL;
  c.ring_ms := CASE
    WHEN c.answered_at_ms IS NOT NULL THEN c.answered_at_ms - c.caller_first_joined_ms
    WHEN c.ended_at_ms IS NOT NULL THEN greatest(c.ended_at_ms - c.caller_first_joined_ms, 0) END;
  c.duration_ms := CASE
    WHEN c.ended_at_ms IS NULL THEN NULL
    WHEN c.answered_at_ms IS NULL THEN 0
    ELSE greatest(c.ended_at_ms - c.answered_at_ms, 0) END;
  c.hung_up_by := CASE
    WHEN c.ended_at_ms IS NULL THEN NULL
    WHEN has_left AND c.left_status = 'hangup' THEN 'caller'
    ELSE 'us' END;
  c.end_reason := CASE
    WHEN c.ended_at_ms IS NULL THEN NULL
    WHEN NOT has_left THEN 'room finished'
    WHEN c.left_aborted THEN 'aborted'
    WHEN c.answered_at_ms IS NOT NULL THEN 'hung up'
    WHEN c.hung_up_by = 'caller' THEN 'gave up'
    WHEN c.left_status = 'ringing' AND c.left_reason = 'CLIENT_INITIATED' THEN 'rang out'
    ELSE 'turned away' END;
  RETURN c;
END
$$;

-- What happens in one room is written down one after the other, so that of two facts that meet the second sees
-- the first. Always taken before the row of a call, and that before the row of a lead.
CREATE FUNCTION lock_room(key text) RETURNS void LANGUAGE sql AS $$
  SELECT pg_advisory_xact_lock(1398228043, hashtext(key))
$$;

CREATE FUNCTION lock_room_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM lock_room(NEW.room_key);
  RETURN NEW;
END
$$;

-- A call's trigger writes the session under this lock, so the session's own statements must not come to it later.
CREATE TRIGGER session_inserted BEFORE INSERT ON sessions
  FOR EACH ROW EXECUTE FUNCTION lock_room_of_session();

CREATE FUNCTION call_facts_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' AND NEW.room_key <> '' THEN
    PERFORM lock_room(NEW.room_key);
    IF NEW.room_sid <> '' THEN
      INSERT INTO sessions (room_key, room_sid, room_name)
      VALUES (NEW.room_key, NEW.room_sid, coalesce(NEW.room_name, '')) ON CONFLICT DO NOTHING;
    END IF;
  END IF;
  -- Where the call has a row already, this one will not be inserted, and the update decides.
  IF NEW.lead_id IS NULL AND NEW.direction = 'inbound' AND NEW.campaign_id IS NOT NULL AND NEW.caller_e164 IS NOT NULL
    AND (TG_OP = 'UPDATE' OR NOT EXISTS (SELECT 1 FROM calls c WHERE c.call_key = NEW.call_key))
  THEN
    SELECT id INTO NEW.lead_id FROM leads WHERE campaign_id = NEW.campaign_id AND number = NEW.caller_e164;
    IF NOT FOUND THEN
      INSERT INTO leads (tenant_id, campaign_id, number, raw_number, name, status)
      SELECT m.tenant_id, m.id, NEW.caller_e164, coalesce(NEW.caller, ''), 'Inbound Caller ' || NEW.caller_e164, 'calling'
      FROM campaigns m WHERE m.id = NEW.campaign_id
      ON CONFLICT DO NOTHING RETURNING id INTO NEW.lead_id;
      NEW.lead_created := FOUND;
      IF NEW.lead_id IS NULL THEN
        SELECT id INTO NEW.lead_id FROM leads WHERE campaign_id = NEW.campaign_id AND number = NEW.caller_e164;
      END IF;
    END IF;
  END IF;
  RETURN derive_call(NEW);
END
$$;

CREATE TRIGGER call_inserted BEFORE INSERT ON calls
  FOR EACH ROW EXECUTE FUNCTION call_facts_changed();

CREATE TRIGGER call_facts_updated
  BEFORE UPDATE OF direction, room_key, caller_first_joined_ms, caller_joined_ms, caller_left_ms, caller_e164, campaign_id
  ON calls FOR EACH ROW EXECUTE FUNCTION call_facts_changed();

-- A lead's status is that of its newest call.
CREATE FUNCTION follow_newest_call() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Not FOR UPDATE: the row's reference to its lead holds a key share already, and two calls would deadlock.
  PERFORM 1 FROM leads WHERE id = NEW.lead_id FOR NO KEY UPDATE;
  UPDATE leads l SET status = newest.status, last_call_at = newest.started_at
  FROM (
    SELECT CASE WHEN c.status IN ('ringing', 'active') THEN 'calling' ELSE c.status END AS status,
      to_timestamp(c.started_at_ms / 1000.0) AS started_at
    FROM calls c WHERE c.lead_id = NEW.lead_id AND c.status IS NOT NULL
    ORDER BY c.started_at_ms DESC, c.call_key DESC LIMIT 1
  ) newest
  WHERE l.id = NEW.lead_id AND (l.status, l.last_call_at) IS DISTINCT FROM (newest.status, newest.started_at);
  RETURN NULL;
END
$$;

CREATE TRIGGER lead_follows_new_call AFTER INSERT ON calls
  FOR EACH ROW WHEN (NEW.lead_id IS NOT NULL) EXECUTE FUNCTION follow_newest_call();

CREATE TRIGGER lead_follows_call AFTER UPDATE ON calls
  FOR EACH ROW WHEN (NEW.lead_id IS NOT NULL AND (OLD.lead_id, OLD.status, OLD.started_at_ms)
    IS DISTINCT FROM (NEW.lead_id, NEW.status, NEW.started_at_ms))
  EXECUTE FUNCTION follow_newest_call();

-- Brings the calls of a room up to the room's facts, and returns those whose log has changed, before and after.
CREATE FUNCTION derive_room(key text) RETURNS TABLE (was calls, now calls) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM lock_room(key);
  FOR was IN SELECT * FROM calls c WHERE c.room_key = key AND key <> '' ORDER BY c.id FOR UPDATE LOOP
    now := derive_call(was);
    CONTINUE WHEN now IS NOT DISTINCT FROM was;
    UPDATE calls c SET started_at_ms = now.started_at_ms, answered_at_ms = now.answered_at_ms,
      ended_at_ms = now.ended_at_ms, ring_ms = now.ring_ms, duration_ms = now.duration_ms,
      hung_up_by = now.hung_up_by, end_reason = now.end_reason, answerers = now.answerers,
      ended_once = now.ended_once, status = now.status
    WHERE c.id = was.id;
    RETURN NEXT;
  END LOOP;
END
$$;
