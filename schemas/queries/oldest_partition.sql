-- The start (Unix ms) of the oldest partition of records; no row where there is none. Partition names of one log end with
-- the start time in digits of equal length, so the least name is the oldest.
SELECT ('x' || left(replace(bound[1], '-', ''), 12))::bit(48)::bigint AS from_ms
FROM (
    SELECT child.oid, child.relpartbound
    FROM pg_inherits AS i
    JOIN pg_class AS child ON child.oid = i.inhrelid AND child.relispartition
    WHERE i.inhparent = 'auditap.audit_records'::regclass AND child.relkind = 'r'
    ORDER BY child.relname
    LIMIT 1
) AS oldest
CROSS JOIN LATERAL regexp_match(pg_get_expr(oldest.relpartbound, oldest.oid), 'FROM \(''([0-9a-f-]{36})''\)') AS bound
