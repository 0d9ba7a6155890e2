-- Adds values that were seen. Arrays: rule, key_digest, value_digest.
INSERT INTO auditap.alert_seen_values (rule, key_digest, value_digest)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[])
ON CONFLICT DO NOTHING;
