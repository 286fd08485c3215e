-- What sites were told when their calls failed, the newest of each site: for whoever helps them. No state hangs on it.

CREATE TABLE failed_calls (
  site_id     TEXT NOT NULL REFERENCES sites (id),
  rpc         TEXT NOT NULL,     -- its name alone
  code        TEXT NOT NULL,     -- the stable code
  message     TEXT NOT NULL,     -- as the site was told it
  first_at_ms BIGINT NOT NULL,
  last_at_ms  BIGINT NOT NULL,
  times       BIGINT NOT NULL,   -- how often, as far as it was counted
  PRIMARY KEY (site_id, rpc, code, message)
);
