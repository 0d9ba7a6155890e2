-- What was found out later, for conditions on it; the range keeps the look-up in the record's day.
LEFT JOIN LATERAL (
    SELECT found.*
    FROM auditap.audit_enrichments AS found
    WHERE found.id = r.id AND found.id >= $2 AND found.id < $3
    OFFSET 0
) AS e ON true
