-- How old a program may be that works on this schema: it knows the migration of this number, or a newer one. A migration that takes away or changes
-- what older programs use raises it, one that only adds does not: so neighbouring versions run beside one another while they are replaced.

CREATE TABLE schema_floor (
  oldest BIGINT NOT NULL -- the number of a migration
);
INSERT INTO schema_floor (oldest) VALUES (14);
