-- Where a walk over the accounts' records begins, and where it has passed $4 of one of them; NULL: never. Slots
-- (constant text only): scope, order.
SELECT nearest.id AS first_id, bound.id AS bound_id
FROM {scope}
CROSS JOIN LATERAL (
    SELECT r.id
    FROM auditap.audit_records AS r
    WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
    ORDER BY r.id {order}
    LIMIT 1
) AS nearest
LEFT JOIN LATERAL (
    SELECT r.id
    FROM auditap.audit_records AS r
    WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
    ORDER BY r.id {order}
    OFFSET $4::bigint
    LIMIT 1
) AS bound ON true
