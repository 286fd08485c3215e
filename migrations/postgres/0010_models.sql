-- Models that persons marked: which one of a run is in use, and what they call others. Such models are kept, whatever the run's policy lets go.

ALTER TABLE runs ADD COLUMN promoted_digest TEXT REFERENCES checkpoints (digest);

CREATE TABLE model_tags (
  digest        TEXT NOT NULL REFERENCES checkpoints (digest),
  tag           TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (digest, tag)
);
CREATE INDEX model_tags_by_tag ON model_tags (tag);

-- Calls that made something, by the key that their caller gave them: whoever sends one again is answered what it was answered, and makes nothing.
CREATE TABLE made_calls (
  credential    TEXT NOT NULL,     -- whose key it is
  key           TEXT NOT NULL,
  request       TEXT NOT NULL,     -- SHA-256 of what was asked for, hex
  status        BIGINT,            -- the answer; null until it is known
  answer        TEXT,              -- its JSON, without secrets
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (credential, key)
);
CREATE INDEX made_calls_by_time ON made_calls (created_at_ms);
