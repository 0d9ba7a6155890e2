-- Remembers values. Arrays: rule, key_digest, value_digest.
INSERT INTO auditap.watch_memories (rule, key_digest, value_digest)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[])
ON CONFLICT DO NOTHING;
