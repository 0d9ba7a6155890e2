-- Let go of open dead letters; the rows stay, with when and by whom.
UPDATE auditap.dead_letters
SET discarded_at = now(), discarded_by = session_user
WHERE
    ($1::bigint[] IS NULL OR number = ANY ($1))
    AND ($2::text[] IS NULL OR reason = ANY ($2))
    AND ($3::uuid[] IS NULL OR event_id = ANY ($3))
    AND ($4::timestamptz IS NULL OR buried_at >= $4)
    AND ($5::timestamptz IS NULL OR buried_at < $5)
    AND ($6::text IS NULL OR state = $6)
    AND ($7::bigint IS NULL OR number <= $7)
    AND state = 'open'
