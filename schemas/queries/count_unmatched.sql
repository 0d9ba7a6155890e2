-- Counts the accounts' records with ids from $2 to $3 (half-open) that matched no operation, by reason, method and path without its
-- query: the most frequent first, at most $4. $1: the accounts. Slot (constant text only): join_backfilled_record.
SELECT found.reason, found.method, found.path, count(*) AS count, max(found.id::text) AS last_id
FROM unnest($1::text[]) AS scope (account_id)
CROSS JOIN LATERAL (
    (
        SELECT r.id, r.receipt ->> 'unmatched' AS reason, r.raw_method AS method, split_part(r.raw_uri, '?', 1) AS path
        FROM auditap.audit_records AS r
        WHERE r.account_id = scope.account_id AND r.id >= $2 AND r.id < $3 AND r.receipt ->> 'unmatched' IS NOT NULL
    )
    UNION ALL
    (
        SELECT r.id, r.receipt ->> 'unmatched' AS reason, r.raw_method AS method, split_part(r.raw_uri, '?', 1) AS path
        FROM auditap.audit_enrichments AS e
        {join_backfilled_record}
        WHERE e.account_id = scope.account_id AND e.id >= $2 AND e.id < $3 AND r.account_id IS NULL
            AND r.receipt ->> 'unmatched' IS NOT NULL
    )
) AS found
GROUP BY found.reason, found.method, found.path
ORDER BY count(*) DESC, found.reason, found.method, found.path
LIMIT $4
