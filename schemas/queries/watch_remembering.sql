-- Which places have seen anything. Arrays: place, rule, key_digest.
SELECT p.place
FROM unnest($1::integer[], $2::text[], $3::bytea[]) AS p (place, rule, key_digest)
WHERE EXISTS (
    SELECT FROM auditap.watch_memories AS m WHERE m.rule = p.rule AND m.key_digest = p.key_digest
);
