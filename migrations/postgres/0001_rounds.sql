-- Times are milliseconds since the Unix epoch by the database's clock (columns *_at_ms).
-- Documents (spec, layout, policy, metrics, reports) are JSON text: the server parses them into checked types.
-- Digests are SHA-256 in lower-case hex; the bytes they name lie in the object store, never here.

CREATE TABLE sites (
  id              TEXT PRIMARY KEY,           -- one organisation's client identity, chosen by the administrator
  token_hash      TEXT NOT NULL,              -- SHA-256 of its token, hex; the token itself is shown once and not kept
  created_at_ms   BIGINT NOT NULL,
  last_seen_at_ms BIGINT,                     -- last authenticated call, to about half a minute
  CONSTRAINT sites_token_hash_key UNIQUE (token_hash)
);

CREATE TABLE checkpoints (
  digest        TEXT PRIMARY KEY,             -- row written only after the bytes are durable
  size          BIGINT NOT NULL,              -- bytes
  layout        TEXT NOT NULL,                -- JSON: names, dtypes, shapes
  created_at_ms BIGINT NOT NULL
);

CREATE TABLE runs (
  id               TEXT PRIMARY KEY,
  state            TEXT NOT NULL CHECK (state IN ('open', 'complete', 'failed', 'cancelled')),
  reason           TEXT,                      -- why a run failed
  strategy         TEXT NOT NULL CHECK (strategy IN ('aligned', 'mean', 'merge-many')),
  spec             TEXT,                      -- JSON; null only for strategy mean
  layout           TEXT,                      -- JSON; null until a seed or the first update fixes it
  policy           TEXT NOT NULL,             -- JSON: rounds, quorum, deadline, ...
  seed_digest      TEXT REFERENCES checkpoints (digest),
  global_digest    TEXT REFERENCES checkpoints (digest), -- newest published model
  rounds_published BIGINT NOT NULL,
  created_at_ms    BIGINT NOT NULL
);

CREATE TABLE run_sites (                      -- a run's cohort
  run_id  TEXT NOT NULL REFERENCES runs (id),
  site_id TEXT NOT NULL REFERENCES sites (id),
  PRIMARY KEY (run_id, site_id)
);
CREATE INDEX run_sites_by_site ON run_sites (site_id);

CREATE TABLE rounds (
  run_id              TEXT NOT NULL REFERENCES runs (id),
  number              BIGINT NOT NULL,        -- from 1
  state               TEXT NOT NULL CHECK (state IN ('collecting', 'merging', 'published', 'failed', 'cancelled')),
  reason              TEXT,                   -- why a round failed
  reference_digest    TEXT REFERENCES checkpoints (digest), -- null in a founding round until it merges
  global_digest       TEXT REFERENCES checkpoints (digest), -- set when published
  quorum              BIGINT NOT NULL,
  full_at             BIGINT NOT NULL,        -- at so many updates it takes no more
  opened_at_ms        BIGINT NOT NULL,
  deadline_at_ms      BIGINT NOT NULL,
  closed_at_ms        BIGINT,
  lease_token         TEXT,                   -- who merges, and until when
  lease_expires_at_ms BIGINT NOT NULL DEFAULT 0,
  fence               BIGINT NOT NULL DEFAULT 0, -- grows with every lease; a result of an older one is refused
  attempts            BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (run_id, number)
);
-- at most one open round a run
CREATE UNIQUE INDEX rounds_one_open ON rounds (run_id) WHERE state IN ('collecting', 'merging');

CREATE TABLE updates (
  id                  TEXT PRIMARY KEY,
  run_id              TEXT NOT NULL,
  round               BIGINT NOT NULL,
  site_id             TEXT NOT NULL REFERENCES sites (id),
  digest              TEXT NOT NULL,          -- as announced; verified before the state says accepted
  size                BIGINT NOT NULL,
  num_examples        BIGINT NOT NULL CHECK (num_examples > 0),
  metrics             TEXT NOT NULL,          -- JSON object of numbers, the site's own words
  state               TEXT NOT NULL CHECK (state IN ('receiving', 'accepted', 'aligned', 'rejected', 'declined')),
  reason              TEXT,                   -- why it was rejected or declined
  begun_at_ms         BIGINT NOT NULL,
  accepted_at_ms      BIGINT,
  alignment           TEXT,                   -- JSON: the permutations; the aligned tensors are never stored
  report              TEXT,                   -- JSON: the alignment report
  lease_token         TEXT,
  lease_expires_at_ms BIGINT NOT NULL DEFAULT 0,
  fence               BIGINT NOT NULL DEFAULT 0,
  attempts            BIGINT NOT NULL DEFAULT 0,
  FOREIGN KEY (run_id, round) REFERENCES rounds (run_id, number)
);
-- one accepted update a site and round; one upload under way a site, round and digest
CREATE UNIQUE INDEX updates_one_accepted ON updates (run_id, round, site_id) WHERE state IN ('accepted', 'aligned');
CREATE UNIQUE INDEX updates_one_receiving ON updates (run_id, round, site_id, digest) WHERE state = 'receiving';
CREATE INDEX updates_by_round ON updates (run_id, round, site_id);
