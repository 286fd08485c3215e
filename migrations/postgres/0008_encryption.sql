-- Updates are encrypted where they lie.

ALTER TABLE updates ADD COLUMN wrapped_key TEXT;     -- while it is received: its key, itself encrypted (base64); NULL where its bytes lie plain
ALTER TABLE checkpoints ADD COLUMN wrapped_key TEXT; -- of an accepted update: its key; destroyed (NULL) when the checkpoint is removed
