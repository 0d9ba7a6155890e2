-- One page of an account's alerts, newest first. $1 account; $2, $3: ids from, before; $4 severities, $5 rules (NULL: all); $6:
-- acknowledged or not (NULL: both); $7: most alerts.
SELECT id, rule, severity, title, account_id, key, window_start_ms, window_ms, records, record, raised_at,
    acknowledged_at, acknowledged_by, note
FROM auditap.alerts
WHERE account_id = $1 AND id >= $2 AND id < $3
    AND ($4::text[] IS NULL OR severity = ANY ($4))
    AND ($5::text[] IS NULL OR rule = ANY ($5))
    AND ($6::boolean IS NULL OR (acknowledged_at IS NOT NULL) = $6)
ORDER BY id DESC
LIMIT $7
