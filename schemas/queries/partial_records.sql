-- Records after a given id that still wait for enrichment, with the ids that look-ups need.
SELECT
    r.id, r.account_id, r.account_name, r.zone_id, r.zone_name,
    r.actor_id, r.actor_type, r.actor_email, r.actor_token_id, r.actor_token_name
FROM auditap.audit_records AS r
WHERE r.enrichment = 'partial'
    AND r.id > $1::uuid
    AND NOT EXISTS (SELECT FROM auditap.audit_enrichments AS e WHERE e.id = r.id)
ORDER BY r.id
LIMIT $2
