-- Networks whose spec this server derived from their graph and verified by running it. The graph's own bytes are not kept.

CREATE TABLE graphs (
  digest        TEXT PRIMARY KEY,             -- SHA-256 of the ONNX file, hex
  size          BIGINT NOT NULL,              -- bytes
  spec          TEXT NOT NULL,                -- JSON: as derived
  certificate   TEXT NOT NULL,                -- JSON: how it was verified
  pinned        TEXT NOT NULL,                -- JSON: each axis that stays, and why
  created_at_ms BIGINT NOT NULL
);

-- the graph that the run's spec was derived from; null for a spec that was given, which nothing here verified
ALTER TABLE runs ADD COLUMN graph_digest TEXT REFERENCES graphs (digest);
