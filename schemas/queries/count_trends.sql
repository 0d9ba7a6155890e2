-- Sums trend buckets. $1 accounts; $2 bounds (Unix ms, multiples of the width); $3 the field to group by; $4 the width of the
-- buckets.
SELECT width_bucket(start_ms, $2::bigint[]) AS bucket,
    CASE $3::text
        WHEN 'action_type' THEN action_type
        WHEN 'action_result' THEN action_result
        WHEN 'resource_product' THEN resource_product
        WHEN 'actor_id' THEN actor_id
    END AS value,
    sum(events)::bigint AS count
FROM auditap.trends
WHERE account_id = ANY ($1) AND width_ms = $4 AND start_ms >= ($2::bigint[])[1] AND start_ms < ($2::bigint[])[cardinality($2::bigint[])]
GROUP BY 1, 2
