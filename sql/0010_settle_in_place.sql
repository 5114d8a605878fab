-- A hand-over that ends changes its call's row in place: nothing that an index holds changes with it.
--
-- When a call is due stands in an index, so it is said once for a hand-over and its end: as if it ended at once, with
-- some time for it. That its lease has lapsed is found by the attempt that has no end.

-- Room for the next version of a row beside it: without it PostgreSQL writes into every index again.
ALTER TABLE calls SET (fillfactor = 70);

ALTER TABLE dispatch_attempts
  -- Its process has died over it, and the call goes on without it.
  ADD COLUMN lapsed boolean NOT NULL DEFAULT false;

CREATE INDEX attempts_under_way ON dispatch_attempts (started_at) WHERE outcome IS NULL AND NOT lapsed;

CREATE OR REPLACE FUNCTION watch_call() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- The last attempt's end, else the claim. Both are null where somebody asked us which agent to dispatch.
  since timestamptz := coalesce(greatest(NEW.settled_at, NEW.claimed_at), NEW.created_at);
  -- How long a hand-over takes at most that is done before its caller would notice.
  quick constant interval := '1 second';
  due timestamptz;
BEGIN
  due := CASE
    WHEN NEW.direction IS DISTINCT FROM 'inbound' THEN NULL
    WHEN NEW.state = 'handing' THEN greatest(since + NEW.answer_within, clock_timestamp() + quick) + quick
    WHEN NEW.ended_at_ms IS NOT NULL OR NEW.state = 'none' THEN NULL
    WHEN NEW.state = 'waiting' THEN
      clock_timestamp() + interval '1 second' * CASE WHEN NEW.target = 'agent' THEN 2 ^ least(NEW.watched, 3) ELSE 1 END
    WHEN NEW.answered_at_ms IS NOT NULL AND NEW.state = 'accepted' THEN NULL
    WHEN NEW.state = 'rejected' AND NEW.answer_status = 429 THEN NULL
    ELSE greatest(since + NEW.answer_within, clock_timestamp() + quick) END;
  -- What was said at the claim, while that is hardly later.
  IF TG_OP = 'UPDATE' AND NEW.watch_at BETWEEN due AND due + quick THEN RETURN NEW; END IF;
  NEW.watch_at := due;
  RETURN NEW;
END
$$;

-- A renewed lease changes nothing of it.
DROP TRIGGER call_watched ON calls;
CREATE TRIGGER call_watched
  BEFORE UPDATE OF state, settled_at, direction, room_key, caller_first_joined_ms, caller_joined_ms, caller_left_ms,
    answered_at_ms, ended_at_ms
  ON calls FOR EACH ROW EXECUTE FUNCTION watch_call();
