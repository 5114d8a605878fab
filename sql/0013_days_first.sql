-- What is looked up by hand only is ordered by days first: a call then writes into the pages of its day, which are few
-- and at hand, instead of into one that is anywhere. Whoever looks goes through the days one by one, newest first, which
-- PostgreSQL 18 does by itself ("Skip Scan" in its manual).

-- The caller as he is called: his number, else what the event said.
DROP INDEX calls_of_caller;
CREATE INDEX calls_of_caller ON calls
  ((started_at_ms / 86400000), (left(coalesce(caller_e164, caller) COLLATE "C", 100)), started_at_ms, id);

DROP INDEX calls_of_dialed;
CREATE INDEX calls_of_dialed ON calls ((started_at_ms / 86400000), dialed_e164, started_at_ms, id)
  WHERE dialed_e164 IS NOT NULL;

DROP INDEX sessions_of_room;
CREATE INDEX sessions_of_room ON sessions
  (((created_at AT TIME ZONE 'UTC')::date), (left(room_name, 100)), created_at, room_key);

-- The key of the call that somebody asks about by `own`: where nobody has named it so before, that of the newest call
-- of this caller in this room, if it came within the time for which a caller may ring.
CREATE OR REPLACE FUNCTION call_key_asked(own text, meeting text, room_key text, room_name text, caller text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  since constant timestamptz := clock_timestamp() - interval '3 minutes';
  -- Whoever joined long before, by LiveKit's clock, is not written down only now.
  joined_since constant bigint := (extract(epoch FROM since - interval '1 hour') * 1000)::bigint;
  today constant bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint / 86400000;
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
    -- A replica of an older version, which does not say what the room is called.
    SELECT c.call_key, c.asked_id, c.direction INTO other FROM (
      SELECT * FROM calls ORDER BY started_at_ms DESC, id DESC LIMIT 1000
    ) c
    WHERE c.created_at > since AND meeting = 'sha256:' || encode(sha256(convert_to(
      octet_length(c.room_name) || ':' || c.room_name || octet_length(coalesce(c.caller_e164, c.caller)) || ':'
        || coalesce(c.caller_e164, c.caller), 'UTF8')), 'hex')
    ORDER BY c.created_at DESC LIMIT 1;
  ELSE
    SELECT c.call_key, c.asked_id, c.direction INTO other FROM calls c
    WHERE c.started_at_ms / 86400000 = ANY (ARRAY[today - 1, today, today + 1])
      AND left(coalesce(c.caller_e164, c.caller) COLLATE "C", 100) = left(call_key_asked.caller, 100)
      AND c.started_at_ms > joined_since
      AND coalesce(c.caller_e164, c.caller) COLLATE "C" = call_key_asked.caller
      AND c.room_name = call_key_asked.room_name AND c.created_at > since
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
