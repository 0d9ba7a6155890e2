-- Ids of records in order, whatever their account; $1 is NULL. Slots (constant text only): order, conditions, late_join.
SELECT r.id
FROM auditap.audit_records AS r
{late_join}
WHERE $1::text[] IS NULL AND r.id >= $2 AND r.id < $3
{conditions}
ORDER BY r.id {order}
LIMIT $4::bigint
