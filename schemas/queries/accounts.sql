-- The accounts of records from the id $1 on, at most $2, in order. Each is found by one look-up in the index on (account, id),
-- behind the one before.
WITH RECURSIVE found (account_id) AS (
    SELECT ''::text
    UNION ALL
    SELECT least(
        (
            SELECT r.account_id FROM auditap.audit_records AS r
            WHERE r.account_id > found.account_id AND r.id >= $1
            ORDER BY r.account_id LIMIT 1
        ),
        (
            SELECT e.account_id FROM auditap.audit_enrichments AS e
            WHERE e.account_id > found.account_id AND e.id >= $1
            ORDER BY e.account_id LIMIT 1
        )
    )
    FROM found
    WHERE found.account_id IS NOT NULL
)
SELECT account_id FROM found WHERE account_id <> '' LIMIT $2
