-- Which of these records were counted already. Arrays: place, rule, key_digest, record_id.
SELECT p.place, m.record_id
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::uuid[]) AS p (place, rule, key_digest, record_id)
JOIN auditap.watch_marks AS m USING (rule, key_digest, record_id);
