-- What an update's values may be, and how it stands beside the others of its round.

ALTER TABLE checkpoints ADD COLUMN magnitudes TEXT; -- JSON: the root mean square of each tensor's values, in the order of their names; null: not measured yet
ALTER TABLE updates ADD COLUMN plausibility TEXT;   -- JSON: distance, ratio and cosine beside the others, and warnings; null: not merged
