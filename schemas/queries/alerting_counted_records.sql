-- Which of these records are counted already. Arrays: key_number, rule, key_digest, record_id.
SELECT p.key_number, m.record_id
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::uuid[]) AS p (key_number, rule, key_digest, record_id)
JOIN auditap.alert_window_entries AS m USING (rule, key_digest, record_id);
