-- Deletes trend buckets of one width. $1: width; $2: before this time (Unix ms); $3: most rows.
DELETE FROM auditap.trends WHERE (start_ms, digest) IN (
    SELECT start_ms, digest FROM auditap.trends WHERE width_ms = $1 AND start_ms < $2 LIMIT $3
);
