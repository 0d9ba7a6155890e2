-- Forgets marks that no window can need any more; $1: their age, $2: at most so many.
DELETE FROM auditap.watch_marks WHERE (rule, key_digest, record_id) IN (
    SELECT rule, key_digest, record_id FROM auditap.watch_marks
    WHERE marked_at < now() - $1::interval LIMIT $2
);
