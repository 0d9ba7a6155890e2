-- The same as walk_bound.sql over the records whose account was found out later. Slot (constant text only): order.
SELECT nearest.id AS first_id, bound.id AS bound_id
FROM unnest($1::text[]) AS scope (account_id)
CROSS JOIN LATERAL (
    SELECT e.id
    FROM auditap.audit_enrichments AS e
    WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3
    ORDER BY e.id {order}
    LIMIT 1
) AS nearest
LEFT JOIN LATERAL (
    SELECT e.id
    FROM auditap.audit_enrichments AS e
    WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3
    ORDER BY e.id {order}
    OFFSET $4::bigint
    LIMIT 1
) AS bound ON true
