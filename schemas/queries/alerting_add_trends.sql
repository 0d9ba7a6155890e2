-- Adds to the counts of trend buckets. Arrays: start_ms, digest, width_ms, account, actor, product, action type, action result, events.
INSERT INTO auditap.trends AS t (
    start_ms, digest, width_ms, account_id, actor_id, resource_product, action_type, action_result, events
)
SELECT * FROM unnest(
    $1::bigint[], $2::bytea[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[]
)
ON CONFLICT (start_ms, digest) DO UPDATE SET events = t.events + excluded.events;
