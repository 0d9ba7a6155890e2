-- Ids of the accounts' records ($1 NULL: every account) that an index on a filter finds, in order. The inner OFFSET 0 keeps
-- the planner from scanning the range record by record. Slots (constant text only): order, candidate, conditions,
-- join_enrichments.
SELECT r.id
FROM (
    SELECT stored.*
    FROM auditap.audit_records AS stored
    WHERE {candidate} AND stored.id >= $2 AND stored.id < $3
    OFFSET 0
) AS r
{join_enrichments}
WHERE ($1::text[] IS NULL OR r.account_id = ANY($1::text[]))
{conditions}
ORDER BY r.id {order}
LIMIT $4::bigint
