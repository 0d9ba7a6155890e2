-- Ids of records whose account was found out later, in order. OFFSET 0 keeps the look-up by id what it is, never a scan
-- of a whole day. Slots (constant text only): order, conditions.
SELECT late.id
FROM unnest($1::text[]) AS scope (account_id)
CROSS JOIN LATERAL (
    SELECT e.id
    FROM auditap.audit_enrichments AS e
    CROSS JOIN LATERAL (
        SELECT stored.*
        FROM auditap.audit_records AS stored
        WHERE stored.id = e.id AND stored.id >= $2 AND stored.id < $3
        OFFSET 0
    ) AS r
    WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3 AND r.account_id IS NULL
    {conditions}
    ORDER BY e.id {order}
    LIMIT $4::bigint
) AS late
ORDER BY late.id {order}
LIMIT $4::bigint
