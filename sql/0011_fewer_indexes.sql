-- A call writes into fewer indexes at places that are anywhere: in a large ledger each of them is a page to be had, and
-- after a checkpoint one to be written as a whole.

-- The calls of a DID are found by its numbers: all that it ever had, and outlives it like its calls.
CREATE TABLE did_numbers (
  did_id uuid NOT NULL,
  number text NOT NULL,
  PRIMARY KEY (did_id, number)
);

CREATE FUNCTION keep_did_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO did_numbers (did_id, number) VALUES (NEW.id, NEW.number) ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;

CREATE TRIGGER did_numbered AFTER INSERT OR UPDATE OF number ON dids
  FOR EACH ROW EXECUTE FUNCTION keep_did_number();

-- Where two events of a call have said different numbers, its row has the first number and the first DID.
CREATE FUNCTION keep_dialed_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO did_numbers (did_id, number) VALUES (NEW.did_id, NEW.dialed_e164) ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;

INSERT INTO did_numbers (did_id, number)
SELECT id, number FROM dids
UNION
SELECT did_id, dialed_e164 FROM calls WHERE did_id IS NOT NULL AND dialed_e164 IS NOT NULL;

-- A call's own key stands for itself. It is among the aliases only where it has no other name that is, so that of two
-- deliveries that come at the same moment one always waits for the other.
--
-- A room with its caller is an alias only where somebody asks: a join looks for those, and whoever asks looks for the
-- call in the room. The lock lets the later one of them see what the earlier one has written.
CREATE OR REPLACE FUNCTION call_key_of(own text, names text[], meeting text, asks boolean) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  key text := own;
  alone constant boolean := names <@ ARRAY[own, ''];
  holder text;
  other record;
  written integer;
BEGIN
  -- A replica of an older version, which does not say what the room is called.
  IF asks THEN RETURN call_key_asked(own, meeting, NULL, NULL, NULL); END IF;

  -- Everybody in the same order, or two deliveries could wait for each other.
  INSERT INTO call_aliases (alias, call_key)
  SELECT DISTINCT n, own FROM unnest(names) n WHERE n <> '' AND (n <> own OR alone) ORDER BY n
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS written = ROW_COUNT;
  SELECT a.call_key INTO holder FROM call_aliases a
  WHERE a.alias = ANY (names) AND a.call_key <> own ORDER BY a.alias DESC LIMIT 1;
  IF FOUND THEN key := holder; END IF;

  IF key = own AND written > 0 AND meeting <> '' THEN
    IF NOT pg_try_advisory_xact_lock_shared(1398228045, hashtext(meeting)) THEN
      PERFORM pg_advisory_xact_lock_shared(1398228045, hashtext(meeting));
    END IF;
    SELECT a.call_key INTO holder FROM call_aliases a WHERE a.alias = meeting;
    IF holder <> own THEN
      SELECT c.asked_id, c.sip_call_id, c.direction, c.created_at > clock_timestamp() - interval '3 minutes' AS fresh
        INTO other FROM calls c WHERE c.call_key = holder;
      IF other.fresh AND other.direction IS DISTINCT FROM 'outbound' AND other.asked_id IS NOT NULL
        AND coalesce(other.sip_call_id, '') = ''
      THEN
        key := holder;
      END IF;
    END IF;
  END IF;

  IF key <> own THEN
    INSERT INTO call_aliases (alias, call_key)
    SELECT DISTINCT n, key FROM unnest(names) n WHERE n <> '' ORDER BY n
    ON CONFLICT DO NOTHING;
    UPDATE call_aliases SET call_key = key WHERE alias = ANY (names) AND call_key = own;
  END IF;
  RETURN key;
END
$$;

-- The key of the call that somebody asks about by `own`: where nobody has named it so before, that of the newest call
-- of this caller in this room, if it came within the time for which a caller may ring.
CREATE FUNCTION call_key_asked(own text, meeting text, room_key text, room_name text, caller text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  since constant timestamptz := clock_timestamp() - interval '3 minutes';
  key text := own;
  other record;
BEGIN
  INSERT INTO call_aliases (alias, call_key) VALUES (own, own) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    SELECT a.call_key INTO key FROM call_aliases a WHERE a.alias = own;
    RETURN key;
  END IF;
  IF meeting = '' OR EXISTS (SELECT FROM calls c WHERE c.call_key = own) THEN RETURN own; END IF;

  IF NOT pg_try_advisory_xact_lock(1398228045, hashtext(meeting)) THEN
    PERFORM pg_advisory_xact_lock(1398228045, hashtext(meeting));
  END IF;
  IF room_name IS NULL THEN
    SELECT c.call_key, c.asked_id, c.direction INTO other FROM (
      SELECT * FROM calls ORDER BY started_at_ms DESC, id DESC LIMIT 1000
    ) c
    WHERE c.created_at > since AND meeting = 'sha256:' || encode(sha256(convert_to(
      octet_length(c.room_name) || ':' || c.room_name || octet_length(coalesce(c.caller_e164, c.caller)) || ':'
        || coalesce(c.caller_e164, c.caller), 'UTF8')), 'hex')
    ORDER BY c.created_at DESC LIMIT 1;
  ELSE
    SELECT c.call_key, c.asked_id, c.direction INTO other FROM calls c
    WHERE c.room_key = ANY (call_key_asked.room_key || ARRAY(
        SELECT s.room_key FROM sessions s
        WHERE left(s.room_name, 100) = left(call_key_asked.room_name, 100) AND s.room_name = call_key_asked.room_name
        ORDER BY s.created_at DESC LIMIT 20))
      AND c.room_name = call_key_asked.room_name AND coalesce(c.caller_e164, c.caller) = call_key_asked.caller
      AND c.created_at > since
    ORDER BY c.created_at DESC LIMIT 1;
  END IF;
  IF other.asked_id IS NULL AND other.direction IS DISTINCT FROM 'outbound' THEN
    key := coalesce(other.call_key, own);
  END IF;

  IF key <> own THEN UPDATE call_aliases SET call_key = key WHERE alias = own; END IF;
  INSERT INTO call_aliases AS a (alias, call_key) VALUES (meeting, key)
  ON CONFLICT (alias) DO UPDATE SET call_key = excluded.call_key;
  RETURN key;
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
          SELECT FROM calls o WHERE o.direction = 'inbound' AND o.call_key
            = coalesce((SELECT n.call_key FROM call_aliases n WHERE n.alias = a.call_key), a.call_key));
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

-- Last, for from here on nobody else writes calls: all of them were read before, and those that may have changed
-- meanwhile are read again.
CREATE TRIGGER call_dialed AFTER UPDATE OF did_id ON calls FOR EACH ROW
  WHEN (NEW.did_id IS NOT NULL AND NEW.dialed_e164 IS NOT NULL
    AND (OLD.did_id, OLD.dialed_e164) IS DISTINCT FROM (NEW.did_id, NEW.dialed_e164))
  EXECUTE FUNCTION keep_dialed_number();

INSERT INTO did_numbers (did_id, number)
SELECT did_id, dialed_e164 FROM calls
WHERE started_at_ms > (extract(epoch FROM clock_timestamp() - interval '1 day') * 1000)::bigint
  AND did_id IS NOT NULL AND dialed_e164 IS NOT NULL
ON CONFLICT DO NOTHING;

DROP INDEX calls_of_did;
