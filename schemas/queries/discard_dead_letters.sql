-- Discard unresolved dead letters. The rows stay, with the time and the database user. Slot (constant text only): chosen.
UPDATE auditap.dead_letters
SET discarded_at = now(), discarded_by = session_user
WHERE {chosen}
    AND state = 'unresolved'
