-- Adds to the hours' counts. Arrays: hour_ms, digest, account, actor, product, action type, action result, events.
INSERT INTO auditap.trends AS t (
    hour_ms, digest, account_id, actor_id, resource_product, action_type, action_result, events
)
SELECT * FROM unnest(
    $1::bigint[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[]
)
ON CONFLICT (hour_ms, digest) DO UPDATE SET events = t.events + excluded.events;
