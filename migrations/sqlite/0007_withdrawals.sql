-- What a site took back, and rounds that were merged again without it.

ALTER TABLE updates ADD COLUMN withdrawn_at_ms BIGINT; -- its site took it back then: its bytes are erased, its row stays
ALTER TABLE updates ADD COLUMN carried_from TEXT;      -- id of the update that its site sent, where this row carries it over to a round that is merged again
ALTER TABLE rounds ADD COLUMN remerge_of BIGINT;       -- number of the round that this one merges again, without what was withdrawn
