-- Ids of records whose account the enrichment backfill found, in order. Slots (constant text only): order, conditions,
-- join_backfilled_record.
SELECT found.id
FROM unnest($1::text[]) AS scope (account_id)
CROSS JOIN LATERAL (
    SELECT e.id
    FROM auditap.audit_enrichments AS e
    {join_backfilled_record}
    WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3 AND r.account_id IS NULL
    {conditions}
    ORDER BY e.id {order}
    LIMIT $4::bigint
) AS found
ORDER BY found.id {order}
LIMIT $4::bigint
