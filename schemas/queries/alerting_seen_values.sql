-- Which of these values each key has seen. Arrays: key_number, rule, key_digest, value_digest.
SELECT p.key_number, m.value_digest
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::bytea[]) AS p (key_number, rule, key_digest, value_digest)
JOIN auditap.alert_seen_values AS m USING (rule, key_digest, value_digest);
