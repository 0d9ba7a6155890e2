-- Dead letters by ascending number, those above $8, at most $9. $10: with the event. Slot (constant text only): chosen.
SELECT
    number, source_log, source_partition, source_offset, reason, path, event_id, received_ms, dead_lettered_at,
    state, retries, retried_at, stored_at, discarded_at, discarded_by,
    CASE WHEN $10::boolean THEN event ELSE '' END AS event
FROM auditap.dead_letters
WHERE {chosen}
    AND number > $8
ORDER BY number
LIMIT $9
