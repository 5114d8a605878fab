-- What the admin API lists and filters by.
--
-- Of the calls only what stays as it is once it is known is indexed: an index on a status or an outcome would be
-- written anew, and with it all others, at every step of every call. Such filters look through the calls that the
-- indexed ones leave, a bounded number at a time.

-- A carrier that has delivered calls is kept, so that they keep their carrier.
ALTER TABLE carriers ADD COLUMN archived_at timestamptz;

CREATE INDEX calls_newest ON calls (started_at_ms, id);
CREATE INDEX calls_of_tenant ON calls (tenant_id, started_at_ms, id) WHERE tenant_id IS NOT NULL;
CREATE INDEX calls_of_campaign ON calls (campaign_id, started_at_ms, id) WHERE campaign_id IS NOT NULL;
CREATE INDEX calls_of_did ON calls (did_id, started_at_ms, id) WHERE did_id IS NOT NULL;
CREATE INDEX calls_of_caller ON calls (caller_e164, started_at_ms, id) WHERE caller_e164 IS NOT NULL;
CREATE INDEX calls_of_dialed ON calls (dialed_e164, started_at_ms, id) WHERE dialed_e164 IS NOT NULL;
-- The names of rooms and trunks come as they are, and may be longer than an index entry can be.
CREATE INDEX calls_of_trunk ON calls (left(trunk_id, 100)) WHERE trunk_id <> '';

CREATE INDEX leads_newest ON leads (created_at, id);
CREATE INDEX leads_of_campaign ON leads (campaign_id, created_at, id);
CREATE INDEX leads_of_number ON leads (number, created_at, id);

CREATE INDEX sessions_newest ON sessions (created_at, room_key);
CREATE INDEX sessions_of_room ON sessions (left(room_name, 100), created_at, room_key);

CREATE INDEX dids_of_tenant ON dids (tenant_id, number) WHERE tenant_id IS NOT NULL;
CREATE INDEX dids_of_campaign ON dids (campaign_id, number) WHERE campaign_id IS NOT NULL;
