-- Adds alerts, one for each rule, key and window; returns the ids of the new ones.
INSERT INTO auditap.alerts (
    id, rule, severity, title, account_id, key, key_digest, window_start_ms, window_ms, records, record_id, record
)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[], $7::bytea[], $8::bigint[], $9::bigint[],
    $10::integer[], $11::uuid[], $12::json[]
)
ON CONFLICT DO NOTHING
RETURNING id;
