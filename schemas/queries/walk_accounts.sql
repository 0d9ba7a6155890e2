-- Ids of the accounts' records in order, record after record: for each account its index has them in this order.
-- The range stands at every table, so that the planner passes over other days. Slots (constant text only): scope,
-- order, conditions, late_join.
SELECT found.id
FROM {scope}
CROSS JOIN LATERAL (
    SELECT r.id
    FROM auditap.audit_records AS r
    {late_join}
    WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
    {conditions}
    ORDER BY r.id {order}
    LIMIT $4::bigint
) AS found
ORDER BY found.id {order}
LIMIT $4::bigint
