-- Forgets values that nothing asked for in a long time; $1: how long, $2: at most so many.
DELETE FROM auditap.watch_memories WHERE (rule, key_digest, value_digest) IN (
    SELECT rule, key_digest, value_digest FROM auditap.watch_memories
    WHERE learned_at < now() - $1::interval LIMIT $2
);
