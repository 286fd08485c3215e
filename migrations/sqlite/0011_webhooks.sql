-- What webhooks are told, and what became of it; and which trace an update and a round belong to.

CREATE TABLE webhook_deliveries (
  id                  TEXT PRIMARY KEY,       -- goes along as webhook-id: whoever is told twice knows it by this
  webhook             TEXT NOT NULL,          -- its name in the settings
  event               TEXT NOT NULL,          -- round.published, round.failed, round.quorum-at-risk, site.silent, certificate.expiring, test
  subject             TEXT NOT NULL,          -- what the event is of: of that each webhook is told once
  run_id              TEXT,                   -- the run, where it is of one
  body                TEXT NOT NULL,          -- JSON, as it is sent and signed
  state               TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
  created_at_ms       BIGINT NOT NULL,
  next_at_ms          BIGINT NOT NULL,        -- not tried before
  delivered_at_ms     BIGINT,
  last_error          TEXT,                   -- why the last try failed
  lease_token         TEXT,                   -- who sends, and until when
  lease_expires_at_ms BIGINT NOT NULL DEFAULT 0,
  fence               BIGINT NOT NULL DEFAULT 0,
  attempts            BIGINT NOT NULL DEFAULT 0,
  CONSTRAINT webhook_deliveries_once UNIQUE (webhook, event, subject)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook, next_at_ms) WHERE state = 'pending';

-- W3C traceparent, where spans are exported: a round's trace is that of its first accepted update.
ALTER TABLE updates ADD COLUMN traceparent TEXT;
ALTER TABLE rounds ADD COLUMN traceparent TEXT;
