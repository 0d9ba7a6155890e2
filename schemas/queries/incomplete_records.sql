-- Of the records with these ids those that still wait for enrichment, with the ids that look-ups need. The range lets the
-- planner pass over other days.
SELECT
    r.id, r.account_id, r.account_name, r.zone_id, r.zone_name,
    r.actor_id, r.actor_type, r.actor_email, r.actor_token_id, r.actor_token_name
FROM auditap.audit_records AS r
WHERE r.id = ANY($1::uuid[]) AND r.id >= $2::uuid AND r.id <= $3::uuid
    AND r.enrichment = 'partial'
    AND NOT EXISTS (
        SELECT FROM auditap.audit_enrichments AS e WHERE e.id = r.id AND e.id >= $2::uuid AND e.id <= $3::uuid
    )
ORDER BY r.id
