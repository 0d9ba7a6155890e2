-- As count_unmatched, for every account and for records without one; $1 is NULL.
SELECT r.receipt ->> 'unmatched' AS reason, r.raw_method AS method, split_part(r.raw_uri, '?', 1) AS path,
    count(*) AS count, max(r.id::text) AS last_id
FROM auditap.audit_records AS r
WHERE $1::text[] IS NULL AND r.id >= $2 AND r.id < $3 AND r.receipt ->> 'unmatched' IS NOT NULL
GROUP BY 1, 2, 3
ORDER BY count(*) DESC, 1, 2, 3
LIMIT $4
