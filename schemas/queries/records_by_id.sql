-- Whole records by id, in the order of the ids $1, limited to the accounts $4 (NULL: every account). $2 and $3 are the
-- lowest and the highest id, so that the planner can prune partitions.
SELECT
    r.id,
    coalesce(r.account_id, e.account_id) AS account_id,
    coalesce(r.account_name, e.account_name) AS account_name,
    r.action_description, r.action_result, r.action_type,
    r.actor_id, r.actor_context,
    coalesce(r.actor_email, e.actor_email) AS actor_email,
    host(r.actor_ip_address) AS actor_ip_address,
    r.actor_token_id,
    coalesce(r.actor_token_name, e.actor_token_name) AS actor_token_name,
    r.actor_type,
    r.raw_cf_ray_id, r.raw_method, r.raw_status_code, r.raw_uri, r.raw_user_agent,
    r.resource_id, r.resource_product, r.resource_request, r.resource_response, r.resource_scope, r.resource_type,
    r.zone_id,
    coalesce(r.zone_name, e.zone_name) AS zone_name,
    r.receipt, r.operation_id, r.tap_id, r.tap_epoch, r.tap_seq, r.received_ms,
    coalesce(e.state, r.enrichment) AS enrichment,
    r.clamped_from_ms,
    r.exchange_host, r.exchange_duration_ms, r.exchange_response_bytes
FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
CROSS JOIN LATERAL (
    SELECT stored.*
    FROM auditap.audit_records AS stored
    WHERE stored.id = wanted.id AND stored.id >= $2 AND stored.id <= $3
    OFFSET 0
) AS r
LEFT JOIN LATERAL (
    SELECT found.*
    FROM auditap.audit_enrichments AS found
    WHERE found.id = wanted.id AND found.id >= $2 AND found.id <= $3
    OFFSET 0
) AS e ON true
WHERE $4::text[] IS NULL OR coalesce(r.account_id, e.account_id) = ANY($4)
ORDER BY wanted.place
