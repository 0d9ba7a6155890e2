-- The digests of the records with the ids $1. The range $2 to $3 restricts it to the partition of that day. OFFSET 0 makes the
-- planner use the primary key for each id.
SELECT r.id, r.event_digest
FROM unnest($1::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT stored.id, stored.event_digest
    FROM auditap.audit_records AS stored
    WHERE stored.id = wanted.id AND stored.id >= $2::uuid AND stored.id <= $3::uuid
    OFFSET 0
) AS r
