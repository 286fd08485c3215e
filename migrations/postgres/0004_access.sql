-- Who may call: each token is one site's, or one person's with a role. The token itself is shown once and not kept.

CREATE TABLE tokens (
  id              TEXT PRIMARY KEY,           -- public; tokens are listed and revoked by it
  hash            TEXT NOT NULL,              -- SHA-256 of the token, hex
  site_id         TEXT REFERENCES sites (id), -- whose it is, if a site's
  role            TEXT CHECK (role IN ('viewer', 'operator', 'admin')), -- what its holder may do, if a person's
  label           TEXT NOT NULL,              -- the administrator's words
  created_at_ms   BIGINT NOT NULL,
  expires_at_ms   BIGINT NOT NULL,            -- opens nothing from then on
  revoked_at_ms   BIGINT,                     -- nor from then on
  last_used_at_ms BIGINT,                     -- to about half a minute
  CONSTRAINT tokens_hash_key UNIQUE (hash),
  CONSTRAINT tokens_one_holder CHECK ((site_id IS NULL) <> (role IS NULL))
);
CREATE INDEX tokens_by_site ON tokens (site_id);

-- Sites' tokens so far; they had no end and get a year from their last call. sites.token_hash stays as it was written, and decides nothing any more.
INSERT INTO tokens (id, hash, site_id, label, created_at_ms, expires_at_ms, last_used_at_ms)
SELECT 'first-' || id, token_hash, id, 'made when the site was enrolled', created_at_ms,
       COALESCE(last_seen_at_ms, created_at_ms) + 31622400000, last_seen_at_ms
FROM sites;

-- Sites' certificates, as they were seen.
CREATE TABLE certificates (
  fingerprint      TEXT PRIMARY KEY,           -- SHA-256 of its signed part, hex
  site_id          TEXT REFERENCES sites (id), -- whom it names; null: revoked before it was seen
  expires_at_ms    BIGINT,
  first_seen_at_ms BIGINT NOT NULL,
  last_used_at_ms  BIGINT,                     -- to about half a minute
  revoked_at_ms    BIGINT                      -- opens nothing from then on
);
