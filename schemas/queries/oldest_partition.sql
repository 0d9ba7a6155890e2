-- The start (Unix ms) of the oldest partition of records; NULL where there is none. The names that auditap gives end with the start time
-- in digits of equal length, so the least of them is the oldest. Any other may be of any time, also without a lower bound.
SELECT min(coalesce(('x' || left(replace(bound[1], '-', ''), 12))::bit(48)::bigint, 0)) AS from_ms
FROM (
    (
        SELECT child.oid, child.relpartbound
        FROM pg_inherits AS i
        JOIN pg_class AS child ON child.oid = i.inhrelid
        WHERE i.inhparent = 'auditap.audit_records'::regclass AND child.relname ~ '^audit_records_[0-9]+$'
        ORDER BY child.relname
        LIMIT 1
    )
    UNION ALL
    SELECT child.oid, child.relpartbound
    FROM pg_inherits AS i
    JOIN pg_class AS child ON child.oid = i.inhrelid
    WHERE i.inhparent = 'auditap.audit_records'::regclass AND child.relname !~ '^audit_records_[0-9]+$'
) AS oldest
CROSS JOIN LATERAL regexp_match(pg_get_expr(oldest.relpartbound, oldest.oid), 'FROM [(]''([0-9a-f-]{36})''[)]') AS bound
