-- What the replicas watch: calls that wait for a worker, of which nobody knows what became, or that nobody answers.
--
-- No replica leads. A call has one time at which it is due; whoever finds it due first moves that time on, and looks
-- after the call. `watch_call` is the only place that says when a call is due.

ALTER TABLE calls
  ADD COLUMN watch_at timestamptz,
  -- How often the call was looked after: the pauses between two dispatches of an agent grow with it.
  ADD COLUMN watched integer NOT NULL DEFAULT 0,
  -- ANSWER_WITHIN of the replica that claimed the call.
  ADD COLUMN answer_within interval NOT NULL DEFAULT '20 seconds',
  -- Rescues that have sent something, or may have: one a call.
  ADD COLUMN rescues integer NOT NULL DEFAULT 0,
  -- Since when it is known that nobody has answered in time.
  ADD COLUMN unanswered_at timestamptz;

CREATE INDEX calls_watched ON calls (watch_at) WHERE watch_at IS NOT NULL;

-- What a hand-over leaves behind that did not end: an earlier attempt may have been accepted or rejected.
CREATE FUNCTION state_after(c calls) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN c.outcome = 'accepted' THEN 'accepted' WHEN c.answer_status IS NOT NULL THEN 'rejected'
    ELSE 'uncertain' END
$$;

CREATE FUNCTION watch_call() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- The last attempt's end, else the claim. Both are null where somebody asked us which agent to dispatch.
  since timestamptz := coalesce(greatest(NEW.settled_at, NEW.claimed_at), NEW.created_at);
BEGIN
  NEW.watch_at := CASE
    WHEN NEW.direction IS DISTINCT FROM 'inbound' THEN NULL
    WHEN NEW.state = 'handing' THEN NEW.lease_until
    WHEN NEW.ended_at_ms IS NOT NULL OR NEW.state = 'none' THEN NULL
    WHEN NEW.state = 'waiting' THEN
      clock_timestamp() + interval '1 second' * CASE WHEN NEW.target = 'agent' THEN 2 ^ least(NEW.watched, 3) ELSE 1 END
    WHEN NEW.answered_at_ms IS NOT NULL THEN NULL
    WHEN NEW.state = 'rejected' AND NEW.answer_status = 429 THEN NULL
    ELSE greatest(since + NEW.answer_within, clock_timestamp() + interval '1 second') END;
  RETURN NEW;
END
$$;

-- After the triggers that draw the conclusions, which are called call_facts_… and call_inserted.
CREATE TRIGGER call_watched_first BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION watch_call();
CREATE TRIGGER call_watched
  BEFORE UPDATE OF state, lease_until, settled_at, direction, room_key, caller_first_joined_ms, caller_joined_ms,
    caller_left_ms, answered_at_ms, ended_at_ms
  ON calls FOR EACH ROW EXECUTE FUNCTION watch_call();

ALTER TABLE dispatch_attempts ADD COLUMN rescue boolean NOT NULL DEFAULT false;

-- When LiveKit was last asked whether it still has the room.
ALTER TABLE sessions ADD COLUMN checked_at timestamptz;
CREATE INDEX sessions_open ON sessions ((coalesce(checked_at, created_at))) WHERE ended_at_ms IS NULL;
