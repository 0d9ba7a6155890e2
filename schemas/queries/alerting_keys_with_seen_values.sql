-- Which keys have seen any value. Arrays: key_number, rule, key_digest.
SELECT p.key_number
FROM unnest($1::integer[], $2::text[], $3::bytea[]) AS p (key_number, rule, key_digest)
WHERE EXISTS (
    SELECT FROM auditap.alert_seen_values AS m WHERE m.rule = p.rule AND m.key_digest = p.key_digest
);
