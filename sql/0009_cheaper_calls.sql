-- The same conclusions for less: what PostgreSQL does at every call, without what it does in vain.
--
-- PostgreSQL reads the expression of a CHECK, and of a trigger's WHEN, from its text in every statement that writes
-- the table, and that of a list of texts is long. So what a column may hold is asked of a function, and a trigger
-- names the columns that it is about. A query in a function costs more than all expressions beside it: those that can
-- find nothing are left out.

CREATE FUNCTION is_call(state text, direction text, status text, hung_up_by text, answer_body bytea) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN state IN ('none', 'handing', 'accepted', 'rejected', 'waiting', 'uncertain')
    AND direction IN ('inbound', 'outbound')
    AND status IN ('ringing', 'active', 'completed', 'missed', 'failed')
    AND hung_up_by IN ('caller', 'us')
    AND octet_length(answer_body) <= 65536;
END
$$;

CREATE FUNCTION is_attempt(target text, outcome text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN target IN ('fleet', 'agent') AND outcome IN ('not-sent', 'accepted', 'rejected', 'ambiguous');
END
$$;

-- Not validated: every row was checked before.
ALTER TABLE calls
  DROP CONSTRAINT calls_state_check,
  DROP CONSTRAINT calls_direction_check,
  DROP CONSTRAINT calls_status_check,
  DROP CONSTRAINT calls_hung_up_by_check,
  DROP CONSTRAINT calls_answer_body_check,
  ADD CONSTRAINT calls_check CHECK (is_call(state, direction, status, hung_up_by, answer_body)) NOT VALID;

ALTER TABLE dispatch_attempts
  DROP CONSTRAINT dispatch_attempts_target_check,
  DROP CONSTRAINT dispatch_attempts_outcome_check,
  ADD CONSTRAINT dispatch_attempts_check CHECK (is_attempt(target, outcome)) NOT VALID;

-- The columns that are written here, and those by which call_facts_changed writes them.
DROP TRIGGER lead_follows_call ON calls;
CREATE TRIGGER lead_follows_call
  AFTER UPDATE OF lead_id, status, started_at_ms, direction, room_key, caller_first_joined_ms, caller_joined_ms,
    caller_left_ms, caller_e164, campaign_id
  ON calls FOR EACH ROW WHEN (NEW.lead_id IS NOT NULL AND (OLD.lead_id, OLD.status, OLD.started_at_ms)
    IS DISTINCT FROM (NEW.lead_id, NEW.status, NEW.started_at_ms))
  EXECUTE FUNCTION follow_newest_call();

-- The names of a new call are written first, and only those that somebody has written before are looked up.
CREATE OR REPLACE FUNCTION call_key_of(own text, names text[], meeting text, asks boolean) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  key text := own;
  holder text;
  other record;
  written integer;
BEGIN
  -- Everybody in the same order, or two deliveries could wait for each other.
  INSERT INTO call_aliases (alias, call_key)
  SELECT DISTINCT n, own FROM unnest(names) n WHERE n <> '' ORDER BY n
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS written = ROW_COUNT;
  IF written < cardinality(names) THEN
    SELECT a.call_key INTO holder FROM call_aliases a
    WHERE a.alias = ANY (names) AND a.call_key <> own ORDER BY a.alias DESC LIMIT 1;
    IF FOUND THEN key := holder; END IF;
  END IF;

  IF key = own AND written > 0 AND meeting <> '' THEN
    INSERT INTO call_aliases (alias, call_key) VALUES (meeting, own) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      SELECT a.call_key INTO holder FROM call_aliases a WHERE a.alias = meeting;
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
  END IF;

  IF key <> own THEN
    UPDATE call_aliases SET call_key = key WHERE alias = ANY (names) AND call_key = own;
  END IF;
  RETURN key;
END
$$;

-- A lock that nobody holds is had without a query.
CREATE OR REPLACE FUNCTION lock_room_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT pg_try_advisory_xact_lock(1398228043, hashtext(NEW.room_key)) THEN PERFORM lock_room(NEW.room_key); END IF;
  RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION call_facts_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' AND NEW.room_key <> '' THEN
    IF NOT pg_try_advisory_xact_lock(1398228043, hashtext(NEW.room_key)) THEN PERFORM lock_room(NEW.room_key); END IF;
    IF NEW.room_sid <> '' THEN
      INSERT INTO sessions (room_key, room_sid, room_name)
      VALUES (NEW.room_key, NEW.room_sid, coalesce(NEW.room_name, '')) ON CONFLICT DO NOTHING;
    END IF;
  END IF;
  IF NEW.lead_id IS NULL AND NEW.direction = 'inbound' AND NEW.campaign_id IS NOT NULL AND NEW.caller_e164 IS NOT NULL
  THEN
    -- Where the call has a row already, this one will not be inserted, and the update decides.
    IF TG_OP = 'UPDATE' OR NOT EXISTS (SELECT 1 FROM calls c WHERE c.call_key = NEW.call_key) THEN
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
  END IF;
  RETURN derive_call(NEW);
END
$$;

-- What the log says of a call, from its own facts and those of its room.
--
-- A leave's time has whole seconds, so whoever answered within that second counts as having been there.
CREATE OR REPLACE FUNCTION derive_call(c calls) RETURNS calls LANGUAGE plpgsql AS $$
DECLARE
  room_ended_ms bigint;
  somebody_came boolean;
  has_left boolean;
BEGIN
  c.started_at_ms := coalesce(c.caller_first_joined_ms, (extract(epoch FROM c.created_at) * 1000)::bigint);
  IF c.direction IS DISTINCT FROM 'inbound' THEN RETURN c; END IF;

  SELECT (SELECT s.ended_at_ms FROM sessions s WHERE s.room_key = c.room_key),
      EXISTS (SELECT FROM answerers a WHERE a.room_key = c.room_key AND c.room_key <> '')
    INTO room_ended_ms, somebody_came;
  has_left := coalesce(c.caller_left_ms >= coalesce(c.caller_joined_ms, c.caller_left_ms), false);
  c.ended_at_ms := CASE
    WHEN has_left THEN c.left_at_ms
    WHEN room_ended_ms + 999 >= coalesce(c.caller_joined_ms, 0) THEN room_ended_ms END;

  c.answered_at_ms := NULL;
  c.answerers := 0;
  IF somebody_came THEN
    SELECT min(greatest(a.joined_ms, c.caller_first_joined_ms)), count(DISTINCT a.identity)
      INTO c.answered_at_ms, c.answerers
      FROM answerers a
      WHERE a.room_key = c.room_key
        AND (c.ended_at_ms IS NULL OR a.joined_ms <= c.ended_at_ms + 999)
        AND (a.left_at_ms IS NULL OR c.caller_first_joined_ms IS NULL
          OR greatest(a.left_at_ms + 999, a.joined_ms) >= c.caller_first_joined_ms)
        AND a.call_key IS DISTINCT FROM c.call_key
        AND NOT EXISTS (
          SELECT 1 FROM call_aliases n JOIN calls o ON o.call_key = n.call_key
          WHERE n.alias = a.call_key AND o.direction = 'inbound');
  END IF;

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
