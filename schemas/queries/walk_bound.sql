-- The id at which a walk over the accounts' records has passed $4 of one of them. Slots (constant text only): scope,
-- order.
SELECT nearest.id
FROM {scope}
CROSS JOIN LATERAL (
    SELECT r.id
    FROM auditap.audit_records AS r
    WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
    ORDER BY r.id {order}
    OFFSET $4::bigint
    LIMIT 1
) AS nearest
ORDER BY nearest.id {order}
LIMIT 1
