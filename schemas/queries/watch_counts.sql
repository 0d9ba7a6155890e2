-- How many records each pane of each place has. Arrays: place, rule, key_digest, from_ms, before_ms, pane_ms.
SELECT p.place, m.at_ms - m.at_ms % p.pane_ms AS pane_ms, count(*) AS records
FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS p (place, rule, key_digest, from_ms, before_ms, pane_ms)
JOIN auditap.watch_marks AS m
    ON m.rule = p.rule AND m.key_digest = p.key_digest AND m.at_ms >= p.from_ms AND m.at_ms < p.before_ms
GROUP BY 1, 2;
