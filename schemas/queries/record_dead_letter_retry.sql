-- Record the retry of an unresolved dead letter: $2 whether it is stored now; if not, the reason $3 and the path $4.
UPDATE auditap.dead_letters
SET
    retries = retries + 1,
    retried_at = now(),
    stored_at = CASE WHEN $2::boolean THEN coalesce(stored_at, now()) END,
    reason = CASE WHEN $2 THEN reason ELSE $3 END,
    path = CASE WHEN $2 THEN path ELSE $4 END
WHERE number = $1 AND state = 'unresolved'
