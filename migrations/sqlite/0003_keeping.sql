-- What a run's policy keeps no longer: the rows stay, for the record, and the bytes go. Pausing, and closing at a quorum.

ALTER TABLE checkpoints ADD COLUMN object TEXT;          -- name of its bytes; null: its digest. No name is used twice
ALTER TABLE checkpoints ADD COLUMN removed_at_ms BIGINT; -- its bytes are no longer kept since then
ALTER TABLE rounds ADD COLUMN quorum_closes_at_ms BIGINT; -- from then on a quorum is enough; null: the deadline
ALTER TABLE rounds ADD COLUMN model_retired_at_ms BIGINT; -- its run's policy keeps the model no longer
ALTER TABLE updates ADD COLUMN retired_at_ms BIGINT;      -- nor the update
ALTER TABLE runs ADD COLUMN paused_at_ms BIGINT;          -- no further round opens; null: they do

-- who still needs a checkpoint
CREATE INDEX updates_by_digest ON updates (digest);
CREATE INDEX rounds_by_global ON rounds (global_digest);
CREATE INDEX rounds_by_reference ON rounds (reference_digest);
