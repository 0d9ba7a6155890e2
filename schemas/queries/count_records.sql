-- Counts the accounts' records per bucket (the ids $4 are the bucket boundaries) and per value of one field.
-- Slots (constant text only): value, conditions, join_enrichments, join_backfilled_record.
SELECT counted.bucket, counted.value, count(*) AS count
FROM unnest($1::text[]) AS scope (account_id)
CROSS JOIN LATERAL (
    (
        SELECT width_bucket(r.id, $4::uuid[]) AS bucket, {value} AS value
        FROM auditap.audit_records AS r
        {join_enrichments}
        WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3
        {conditions}
    )
    UNION ALL
    (
        SELECT width_bucket(r.id, $4::uuid[]) AS bucket, {value} AS value
        FROM auditap.audit_enrichments AS e
        {join_backfilled_record}
        WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3 AND r.account_id IS NULL
        {conditions}
    )
) AS counted
GROUP BY counted.bucket, counted.value
