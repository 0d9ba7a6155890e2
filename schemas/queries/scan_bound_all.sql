-- Like scan_bound.sql, for the records of every account; $1 is NULL. Slot (constant text only): order.
SELECT nearest.id AS first_id, bound.id AS bound_id
FROM (
    SELECT r.id
    FROM auditap.audit_records AS r
    WHERE $1::text[] IS NULL AND r.id >= $2 AND r.id < $3
    ORDER BY r.id {order}
    LIMIT 1
) AS nearest
LEFT JOIN LATERAL (
    SELECT r.id
    FROM auditap.audit_records AS r
    WHERE r.id >= $2 AND r.id < $3
    ORDER BY r.id {order}
    OFFSET $4::bigint
    LIMIT 1
) AS bound ON true
