-- Joins the record of each enrichment. OFFSET 0 keeps the look-up by id an index look-up, never a scan of a whole day.
CROSS JOIN LATERAL (
    SELECT stored.*
    FROM auditap.audit_records AS stored
    WHERE stored.id = e.id AND stored.id >= $2 AND stored.id < $3
    OFFSET 0
) AS r
