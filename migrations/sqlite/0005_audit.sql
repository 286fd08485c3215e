-- The audit log: every change of state writes its record in the same transaction. The records' lines are the leaves of a Merkle tree
-- (RFC 6962). One row is the head; whoever appends holds it until the transaction ends, so that places have no gaps.

CREATE TABLE audit_head (
  id       BIGINT PRIMARY KEY CHECK (id = 1),
  origin   TEXT NOT NULL,      -- the log's name, which no other log has
  size     BIGINT NOT NULL,    -- how many records there are
  frontier TEXT NOT NULL,      -- roots of the complete subtrees that they fall into, the largest first, hex
  keys     TEXT                -- public keys of who signs, PEM; every process that serves must have them
);

CREATE TABLE audit_records (
  seq    BIGINT PRIMARY KEY,   -- from 0
  line   TEXT NOT NULL,        -- the record, JSON: the leaf is of these bytes
  hash   TEXT NOT NULL,        -- of the leaf, hex
  action TEXT NOT NULL,        -- as in the line, to find records by
  object TEXT,                 -- as in the line
  run_id TEXT                  -- as in the line
);
CREATE INDEX audit_records_by_object ON audit_records (object, action);
CREATE INDEX audit_records_by_run ON audit_records (run_id, seq);

CREATE TABLE audit_nodes (
  level    BIGINT NOT NULL,    -- 1: of two leaves
  position BIGINT NOT NULL,    -- from the left
  hash     TEXT NOT NULL,      -- root of that complete subtree, hex
  PRIMARY KEY (level, position)
);

-- What a published model was made from, signed: a bundle in the OpenSSF model signing format.
ALTER TABLE rounds ADD COLUMN model_signature TEXT;

-- In each database's own words: records are written once.
CREATE TRIGGER audit_records_are_kept_from_update BEFORE UPDATE ON audit_records
BEGIN
  SELECT RAISE(ABORT, 'records of the audit log are neither changed nor removed');
END;
CREATE TRIGGER audit_records_are_kept_from_delete BEFORE DELETE ON audit_records
BEGIN
  SELECT RAISE(ABORT, 'records of the audit log are neither changed nor removed');
END;
CREATE TRIGGER audit_nodes_are_kept_from_update BEFORE UPDATE ON audit_nodes
BEGIN
  SELECT RAISE(ABORT, 'records of the audit log are neither changed nor removed');
END;
CREATE TRIGGER audit_nodes_are_kept_from_delete BEFORE DELETE ON audit_nodes
BEGIN
  SELECT RAISE(ABORT, 'records of the audit log are neither changed nor removed');
END;
CREATE TRIGGER audit_head_is_kept BEFORE DELETE ON audit_head
BEGIN
  SELECT RAISE(ABORT, 'records of the audit log are neither changed nor removed');
END;
CREATE TRIGGER audit_head_grows BEFORE UPDATE ON audit_head
WHEN NEW.size < OLD.size OR NEW.origin <> OLD.origin OR (OLD.keys IS NOT NULL AND NEW.keys IS NOT OLD.keys)
BEGIN
  SELECT RAISE(ABORT, 'the audit log only grows, under one name and one pair of keys');
END;
