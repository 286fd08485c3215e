-- How good the models of published rounds are, by the examples of each site.

CREATE TABLE evaluations (
  id             TEXT PRIMARY KEY,
  run_id         TEXT NOT NULL,
  round          BIGINT NOT NULL,
  site_id        TEXT NOT NULL REFERENCES sites (id),
  model          TEXT NOT NULL CHECK (model IN ('global', 'naive', 'own')),
  digest         TEXT NOT NULL,              -- of the model; of its own one the site's word
  num_examples   BIGINT NOT NULL CHECK (num_examples > 0),
  loss           DOUBLE PRECISION,           -- mean over the examples
  accuracy       DOUBLE PRECISION,           -- 0 to 1
  reported_at_ms BIGINT NOT NULL,            -- the newest word of the site
  reports        BIGINT NOT NULL DEFAULT 1,  -- how often it changed its word, and once
  CHECK (loss IS NOT NULL OR accuracy IS NOT NULL),
  FOREIGN KEY (run_id, round) REFERENCES rounds (run_id, number)
);
-- one word of a site on a model of a round
CREATE UNIQUE INDEX evaluations_one ON evaluations (run_id, round, site_id, model);

-- The mean of a round's updates as they came, without alignment, where its run asks for it: sites may try it for a while.
ALTER TABLE rounds ADD COLUMN naive_digest TEXT REFERENCES checkpoints (digest);
ALTER TABLE rounds ADD COLUMN naive_retired_at_ms BIGINT; -- it is kept no longer since then
CREATE INDEX rounds_by_naive ON rounds (naive_digest);
