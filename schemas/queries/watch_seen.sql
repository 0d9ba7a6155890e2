-- Which of these values each place has seen. Arrays: place, rule, key_digest, value_digest.
SELECT p.place, m.value_digest
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::bytea[]) AS p (place, rule, key_digest, value_digest)
JOIN auditap.watch_memories AS m USING (rule, key_digest, value_digest);
