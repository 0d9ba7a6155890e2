-- Keeps values that are used from being deleted, with at most one write a day. Arrays: rule, key_digest, value_digest.
UPDATE auditap.alert_seen_values AS m SET seen_at = now()
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS p (rule, key_digest, value_digest)
WHERE m.rule = p.rule AND m.key_digest = p.key_digest AND m.value_digest = p.value_digest
    AND m.seen_at < now() - interval '1 day';
