-- Dead letters in the order of their numbers, after $8, at most $9; $10: with what was buried.
SELECT
    number, source_log, source_partition, source_offset, reason, path, event_id, received_ms, buried_at,
    state, retries, retried_at, stored_at, discarded_at, discarded_by,
    CASE WHEN $10::boolean THEN event ELSE '' END AS event
FROM auditap.dead_letters
WHERE
    ($1::bigint[] IS NULL OR number = ANY ($1))
    AND ($2::text[] IS NULL OR reason = ANY ($2))
    AND ($3::uuid[] IS NULL OR event_id = ANY ($3))
    AND ($4::timestamptz IS NULL OR buried_at >= $4)
    AND ($5::timestamptz IS NULL OR buried_at < $5)
    AND ($6::text IS NULL OR state = $6)
    AND ($7::bigint IS NULL OR number <= $7)
    AND number > $8
ORDER BY number
LIMIT $9
