-- Lists alerts, newest first. $1: account (NULL: all); $2: of windows from this time on (Unix ms); $3: most alerts; $4: only
-- unacknowledged ones.
SELECT id, rule, severity, title, account_id, key, window_start_ms, window_ms, records, record, raised_at,
    acknowledged_at, acknowledged_by, note
FROM auditap.alerts
WHERE ($1::text IS NULL OR account_id = $1) AND id >= auditap.first_id_at($2)
    AND (NOT $4::boolean OR acknowledged_at IS NULL)
ORDER BY id DESC
LIMIT $3
