-- Starts of the windows that have an alert. Arrays: key_number, rule, key_digest, first and last start (Unix ms).
SELECT p.key_number, a.window_start_ms
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[])
    AS p (key_number, rule, key_digest, first_ms, last_ms)
JOIN auditap.alerts AS a
    ON a.rule = p.rule AND a.key_digest = p.key_digest AND a.window_start_ms BETWEEN p.first_ms AND p.last_ms;
