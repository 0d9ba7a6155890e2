-- Counts the window entries of each key by bucket. Arrays: key_number, rule, key_digest, from_ms, before_ms, width_ms.
SELECT p.key_number, m.at_ms - m.at_ms % p.width_ms AS bucket_ms, count(*) AS records
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS p (key_number, rule, key_digest, from_ms, before_ms, width_ms)
JOIN auditap.alert_window_entries AS m
    ON m.rule = p.rule AND m.key_digest = p.key_digest AND m.at_ms >= p.from_ms AND m.at_ms < p.before_ms
GROUP BY 1, 2;
