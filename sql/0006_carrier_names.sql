-- What replicas know of a number in memory names its carrier.
CREATE TRIGGER carriers_routing_changed AFTER UPDATE OF name ON carriers
  FOR EACH STATEMENT EXECUTE FUNCTION bump_cache_version('routing');
