-- A call that somebody has joined is looked after until the ledger says so, too: whoever joined while nobody knew what
-- had become of the hand-over has answered it.

CREATE OR REPLACE FUNCTION watch_call() RETURNS trigger LANGUAGE plpgsql AS $$
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
    WHEN NEW.answered_at_ms IS NOT NULL AND NEW.state = 'accepted' THEN NULL
    WHEN NEW.state = 'rejected' AND NEW.answer_status = 429 THEN NULL
    ELSE greatest(since + NEW.answer_within, clock_timestamp() + interval '1 second') END;
  RETURN NEW;
END
$$;
