-- Deletes values that no rule has used for a time. $1: how long; $2: most rows.
DELETE FROM auditap.alert_seen_values WHERE (rule, key_digest, value_digest) IN (
    SELECT rule, key_digest, value_digest FROM auditap.alert_seen_values
    WHERE seen_at < now() - $1::interval LIMIT $2
);
