-- One page of an account's records in the order of their ids, from two branches that an index orders each: records
-- stored with the account, and records whose account was found out later. The range stands at every table, so that
-- the planner passes over other days; OFFSET 0 keeps look-ups by id what they are, never a scan of a whole day.
-- Slots (constant text only): order, conditions, late_join.
WITH page AS MATERIALIZED (
    (
        SELECT r.id
        FROM auditap.audit_records AS r
        {late_join}
        WHERE r.account_id = $1 AND r.id >= $2 AND r.id < $3
        {conditions}
        ORDER BY r.id {order}
        LIMIT $4::bigint
    )
    UNION ALL
    (
        SELECT e.id
        FROM auditap.audit_enrichments AS e
        CROSS JOIN LATERAL (
            SELECT stored.*
            FROM auditap.audit_records AS stored
            WHERE stored.id = e.id AND stored.id >= $2 AND stored.id < $3
            OFFSET 0
        ) AS r
        WHERE e.account_id = $1 AND e.id >= $2 AND e.id < $3 AND r.account_id IS NULL
        {conditions}
        ORDER BY e.id {order}
        LIMIT $4::bigint
    )
    ORDER BY id {order}
    LIMIT $4::bigint
)
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
    coalesce(e.state, r.enrichment) AS enrichment
FROM page
CROSS JOIN LATERAL (
    SELECT stored.*
    FROM auditap.audit_records AS stored
    WHERE stored.id = page.id AND stored.id >= $2 AND stored.id < $3
    OFFSET 0
) AS r
LEFT JOIN LATERAL (
    SELECT found.*
    FROM auditap.audit_enrichments AS found
    WHERE found.id = page.id AND found.id >= $2 AND found.id < $3
    OFFSET 0
) AS e ON true
ORDER BY page.id {order}
