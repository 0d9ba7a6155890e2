-- The digests of the records that have these ids; the range lets the planner pass over other days, and OFFSET 0 keeps each
-- look-up one in the primary key.
SELECT r.id, r.event_digest
FROM unnest($1::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT stored.id, stored.event_digest
    FROM auditap.audit_records AS stored
    WHERE stored.id = wanted.id AND stored.id >= $2::uuid AND stored.id <= $3::uuid
    OFFSET 0
) AS r
