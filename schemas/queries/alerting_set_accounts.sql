-- Gives alerts without an account the one that enrichment found for their record since. $1: most alerts.
WITH found AS (
    SELECT a.id, e.account_id
    FROM auditap.alerts AS a
    JOIN auditap.audit_enrichments AS e ON e.id = a.record_id
    WHERE a.account_id IS NULL AND e.account_id IS NOT NULL
    LIMIT $1
)
UPDATE auditap.alerts AS a SET account_id = found.account_id FROM found WHERE a.id = found.id;
