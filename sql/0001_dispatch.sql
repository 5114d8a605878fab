-- The tables of the dispatcher. Times that decide anything are the database's own.

CREATE TABLE system_settings (
  key text PRIMARY KEY,
  value jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE tenants (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL UNIQUE,
  default_agent text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE campaigns (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  name text NOT NULL,
  agent_name text,
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (tenant_id, name)
);

CREATE TABLE carriers (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL UNIQUE,
  lk_inbound_trunk_id text UNIQUE,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE dids (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  number text NOT NULL UNIQUE CHECK (number ~ '^\+[1-9][0-9]{1,14}$'),
  raw_number text NOT NULL,
  type text CHECK (type IN ('local', 'mobile', 'national', 'toll-free')),
  carrier_id uuid REFERENCES carriers (id),
  -- The order within the carrier; the first one stands in for a dialed number that LiveKit hides.
  position integer NOT NULL DEFAULT 0,
  tenant_id uuid REFERENCES tenants (id),
  campaign_id uuid REFERENCES campaigns (id),
  target text CHECK (target IN ('fleet', 'agent')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX dids_of_carrier ON dids (carrier_id, position, number);

CREATE TABLE leads (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  tenant_id uuid REFERENCES tenants (id),
  campaign_id uuid NOT NULL REFERENCES campaigns (id),
  number text NOT NULL,
  raw_number text NOT NULL,
  name text NOT NULL,
  status text NOT NULL,
  last_call_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (campaign_id, number)
);

-- One row per call key: the ledger that decides who may be handed the call, and the call log.
CREATE TABLE calls (
  id uuid PRIMARY KEY,
  call_key text NOT NULL UNIQUE,

  -- The ledger. `claim` names the hand-over that holds the lease; `attempts` were begun, and `unsent` of
  -- them ended without a byte having left, so that nothing was ever sent while the two are equal.
  state text NOT NULL CHECK (state IN ('none', 'handing', 'accepted', 'rejected', 'waiting', 'uncertain')),
  claim uuid,
  owner text,
  lease_until timestamptz,
  attempts integer NOT NULL DEFAULT 0,
  unsent integer NOT NULL DEFAULT 0,
  worker text,
  worker_url text,
  answer_status integer,
  answer_type text,
  answer_body bytea CHECK (octet_length(answer_body) <= 65536),

  -- Facts about the caller's leg, merged by maximum: LiveKit's joinedAt in milliseconds of the newest join
  -- seen, and of the newest join whose leave was seen.
  caller_joined_ms bigint,
  caller_left_ms bigint,

  -- The call log. Null direction: only a leave is known yet.
  direction text CHECK (direction IN ('inbound', 'outbound')),
  status text,
  -- What the events said, as it came, and what it is in E.164 where it is a number.
  caller text,
  caller_e164 text,
  dialed text,
  dialed_e164 text,
  trunk_id text,
  rule_id text,
  sip_call_id text,
  sip_call_id_full text,
  participant_identity text,
  room_key text NOT NULL,
  room_name text,
  room_sid text,
  target text,
  agent_name text,
  outcome text,
  tenant_id uuid REFERENCES tenants (id),
  campaign_id uuid REFERENCES campaigns (id),
  lead_id uuid REFERENCES leads (id),
  did_id uuid REFERENCES dids (id),
  metadata jsonb,
  explanation jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  claimed_at timestamptz,
  settled_at timestamptz
);

CREATE INDEX calls_in_room ON calls (room_key);

-- Two legs without a dispatch rule in one room, both claimed at once: one of them is somebody we called.
CREATE UNIQUE INDEX calls_one_leg_without_rule ON calls (room_key) WHERE rule_id = '' AND direction = 'inbound';

CREATE TABLE dispatch_attempts (
  call_id uuid NOT NULL REFERENCES calls (id) ON DELETE CASCADE,
  attempt integer NOT NULL,
  claim uuid NOT NULL,
  worker text NOT NULL,
  worker_url text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  -- Null while it runs, and for good where the process died over it: a byte may have left.
  outcome text CHECK (outcome IN ('not-sent', 'accepted', 'rejected', 'ambiguous')),
  status integer,
  reason text,
  PRIMARY KEY (call_id, attempt)
);

CREATE TABLE sessions (
  room_sid text PRIMARY KEY,
  room_name text NOT NULL,
  status text NOT NULL DEFAULT 'ready' CHECK (status IN ('ready', 'live', 'stopped')),
  started_at timestamptz,
  stopped_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Caches in the replicas follow these versions: told by NOTIFY, and found by polling where that was missed.
CREATE TABLE cache_versions (
  topic text PRIMARY KEY,
  version bigint NOT NULL DEFAULT 0
);

INSERT INTO cache_versions (topic) VALUES ('system_settings'), ('carriers');

CREATE FUNCTION bump_cache_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE cache_versions SET version = version + 1 WHERE topic = TG_ARGV[0];
  PERFORM pg_notify('switchhook_cache', TG_ARGV[0]);
  RETURN NULL;
END
$$;

CREATE TRIGGER system_settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON system_settings
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('system_settings');

CREATE TRIGGER carriers_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON carriers
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('carriers');

CREATE TRIGGER dids_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON dids
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('carriers');
