-- Replicas keep what they know of dialed numbers in memory: they must hear when any of it changes.

INSERT INTO cache_versions (topic) VALUES ('routing');

CREATE TRIGGER dids_routing_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON dids
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('routing');

CREATE TRIGGER tenants_routing_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenants
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('routing');

CREATE TRIGGER campaigns_routing_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON campaigns
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('routing');
