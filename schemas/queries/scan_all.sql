-- Ids of the records of every account, in order; $1 is NULL. Slots (constant text only): order, conditions,
-- join_enrichments.
SELECT r.id
FROM auditap.audit_records AS r
{join_enrichments}
WHERE $1::text[] IS NULL AND r.id >= $2 AND r.id < $3
{conditions}
ORDER BY r.id {order}
LIMIT $4::bigint
