-- The records with the ids $1 that are still partial, with the ids that look-ups need. The range $2 to $3 restricts it to the
-- partition of that day. OFFSET 0 makes the planner use the primary key for each id: for many ids at once it would choose the
-- BRIN index and read millions of rows.
SELECT
    r.id, r.account_id, r.account_name, r.zone_id, r.zone_name,
    r.actor_id, r.actor_type, r.actor_email, r.actor_token_id, r.actor_token_name
FROM unnest($1::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT
        stored.id, stored.account_id, stored.account_name, stored.zone_id, stored.zone_name,
        stored.actor_id, stored.actor_type, stored.actor_email, stored.actor_token_id, stored.actor_token_name,
        stored.enrichment
    FROM auditap.audit_records AS stored
    WHERE stored.id = wanted.id AND stored.id >= $2::uuid AND stored.id <= $3::uuid
    OFFSET 0
) AS r
WHERE r.enrichment = 'partial'
    AND NOT EXISTS (
        SELECT FROM auditap.audit_enrichments AS e
        WHERE e.id = wanted.id AND e.id >= $2::uuid AND e.id <= $3::uuid
        OFFSET 0
    )
ORDER BY r.id
