-- Ids of the accounts' records in order. The index on (account, id) yields each account's records in this order. Every
-- table repeats the id range, so that the planner can prune partitions. Slots (constant text only): scope, order,
-- conditions, join_enrichments.
SELECT found.id
FROM {scope}
CROSS JOIN LATERAL (
    SELECT r.id
    FROM auditap.audit_records AS r
    {join_enrichments}
    WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
    {conditions}
    ORDER BY r.id {order}
    LIMIT $4::bigint
) AS found
ORDER BY found.id {order}
LIMIT $4::bigint
