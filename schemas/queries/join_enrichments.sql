-- Joins backfilled values, for conditions on them. The id range keeps the look-up in the record's partition.
LEFT JOIN LATERAL (
    SELECT found.*
    FROM auditap.audit_enrichments AS found
    WHERE found.id = r.id AND found.id >= $2 AND found.id < $3
    OFFSET 0
) AS e ON true
