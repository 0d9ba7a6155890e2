-- Forgets counts of one width ($1) of times before $2 (Unix ms); $3: at most so many.
DELETE FROM auditap.trends WHERE (start_ms, digest) IN (
    SELECT start_ms, digest FROM auditap.trends WHERE width_ms = $1 AND start_ms < $2 LIMIT $3
);
