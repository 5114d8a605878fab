-- What is looked up by is compared byte by byte, whatever the database's locale is. That takes a fraction of the time,
-- and no update of the system's locales can put an index out of order, so that a known call would not be found in it.
-- (PostgreSQL, "Index Rebuild Required After Collation Version Change".)

-- No column can change that a trigger names.
DROP TRIGGER call_facts_updated ON calls;
DROP TRIGGER lead_follows_call ON calls;
DROP TRIGGER call_watched ON calls;
DROP TRIGGER call_dialed ON calls;
DROP TRIGGER did_numbered ON dids;

ALTER TABLE calls
  ALTER COLUMN call_key TYPE text COLLATE "C",
  ALTER COLUMN room_key TYPE text COLLATE "C",
  ALTER COLUMN caller_e164 TYPE text COLLATE "C",
  ALTER COLUMN dialed_e164 TYPE text COLLATE "C",
  ALTER COLUMN trunk_id TYPE text COLLATE "C";

ALTER TABLE call_aliases
  ALTER COLUMN alias TYPE text COLLATE "C",
  ALTER COLUMN call_key TYPE text COLLATE "C";

ALTER TABLE sessions
  ALTER COLUMN room_key TYPE text COLLATE "C",
  ALTER COLUMN room_name TYPE text COLLATE "C";

ALTER TABLE answerers
  ALTER COLUMN room_key TYPE text COLLATE "C",
  ALTER COLUMN participant TYPE text COLLATE "C",
  ALTER COLUMN call_key TYPE text COLLATE "C";

ALTER TABLE dids ALTER COLUMN number TYPE text COLLATE "C";
ALTER TABLE did_numbers ALTER COLUMN number TYPE text COLLATE "C";
ALTER TABLE leads ALTER COLUMN number TYPE text COLLATE "C";
ALTER TABLE carriers ALTER COLUMN lk_inbound_trunk_id TYPE text COLLATE "C";

CREATE TRIGGER call_facts_updated
  BEFORE UPDATE OF direction, room_key, caller_first_joined_ms, caller_joined_ms, caller_left_ms, caller_e164, campaign_id
  ON calls FOR EACH ROW EXECUTE FUNCTION call_facts_changed();

CREATE TRIGGER lead_follows_call
  AFTER UPDATE OF lead_id, status, started_at_ms, direction, room_key, caller_first_joined_ms, caller_joined_ms,
    caller_left_ms, caller_e164, campaign_id
  ON calls FOR EACH ROW WHEN (NEW.lead_id IS NOT NULL AND (OLD.lead_id, OLD.status, OLD.started_at_ms)
    IS DISTINCT FROM (NEW.lead_id, NEW.status, NEW.started_at_ms))
  EXECUTE FUNCTION follow_newest_call();

CREATE TRIGGER call_watched
  BEFORE UPDATE OF state, settled_at, direction, room_key, caller_first_joined_ms, caller_joined_ms, caller_left_ms,
    answered_at_ms, ended_at_ms
  ON calls FOR EACH ROW EXECUTE FUNCTION watch_call();

CREATE TRIGGER call_dialed AFTER UPDATE OF did_id ON calls FOR EACH ROW
  WHEN (NEW.did_id IS NOT NULL AND NEW.dialed_e164 IS NOT NULL
    AND (OLD.did_id, OLD.dialed_e164) IS DISTINCT FROM (NEW.did_id, NEW.dialed_e164))
  EXECUTE FUNCTION keep_dialed_number();

CREATE TRIGGER did_numbered AFTER INSERT OR UPDATE OF number ON dids
  FOR EACH ROW EXECUTE FUNCTION keep_did_number();
