-- Adds records to the windows of their key, each once. Arrays: rule, key_digest, record_id, at_ms.
INSERT INTO auditap.alert_window_entries (rule, key_digest, record_id, at_ms)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::uuid[], $4::bigint[])
ON CONFLICT DO NOTHING;
