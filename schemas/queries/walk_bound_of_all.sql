-- The id at which a walk over all records has passed $4 of them; $1 is NULL. Slot (constant text only): order.
SELECT r.id
FROM auditap.audit_records AS r
WHERE $1::text[] IS NULL AND r.id >= $2 AND r.id < $3
ORDER BY r.id {order}
OFFSET $4::bigint
LIMIT 1
