-- What was found out later, for conditions on it.
LEFT JOIN auditap.audit_enrichments AS e ON e.id = r.id AND e.id >= $2 AND e.id < $3
