-- How many of the accounts' records fall between each two of the ids $4, and what they say in one field.
-- Slots (constant text only): value, conditions, late_join.
SELECT counted.bucket, counted.value, count(*) AS count
FROM unnest($1::text[]) AS scope (account_id)
CROSS JOIN LATERAL (
    (
        SELECT width_bucket(r.id, $4::uuid[]) AS bucket, {value} AS value
        FROM auditap.audit_records AS r
        {late_join}
        WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
        {conditions}
    )
    UNION ALL
    (
        SELECT width_bucket(r.id, $4::uuid[]) AS bucket, {value} AS value
        FROM auditap.audit_enrichments AS e
        CROSS JOIN LATERAL (
            SELECT stored.*
            FROM auditap.audit_records AS stored
            WHERE stored.id = e.id AND stored.id >= $2 AND stored.id < $3
            OFFSET 0
        ) AS r
        WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3 AND r.account_id IS NULL
        {conditions}
    )
) AS counted
GROUP BY counted.bucket, counted.value
