-- Counts the records of every account, and those without one, per bucket (the ids $4 are the bucket boundaries) and per value of
-- one field; $1 is NULL. Slots (constant text only): value, conditions, join_enrichments.
SELECT width_bucket(r.id, $4::uuid[]) AS bucket, {value} AS value, count(*) AS count
FROM auditap.audit_records AS r
{join_enrichments}
WHERE $1::text[] IS NULL AND r.id >= $2 AND r.id < $3
{conditions}
GROUP BY 1, 2
