-- Deletes window entries that no window can need any more. $1: age; $2: most rows.
DELETE FROM auditap.alert_window_entries WHERE (rule, key_digest, record_id) IN (
    SELECT rule, key_digest, record_id FROM auditap.alert_window_entries
    WHERE counted_at < now() - $1::interval LIMIT $2
);
