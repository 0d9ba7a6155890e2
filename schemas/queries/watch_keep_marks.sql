-- Counts records, each once. Arrays: rule, key_digest, record_id, at_ms.
INSERT INTO auditap.watch_marks (rule, key_digest, record_id, at_ms)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::uuid[], $4::bigint[])
ON CONFLICT DO NOTHING;
