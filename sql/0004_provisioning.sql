-- The dispatch rule in LiveKit that goes with a carrier's inbound trunk.

ALTER TABLE carriers ADD COLUMN lk_dispatch_rule_id text;
