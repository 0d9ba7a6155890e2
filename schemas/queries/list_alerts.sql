-- Alerts, newest first. $1: of this account, NULL: of all; $2: of windows from then on (Unix ms); $3: at most so many;
-- $4: only those that nobody has acknowledged.
SELECT id, rule, severity, title, account_id, key, window_start_ms, window_ms, records, record, raised_at,
    acknowledged_at, acknowledged_by, note
FROM auditap.alerts
WHERE ($1::text IS NULL OR account_id = $1) AND id >= auditap.first_id_at($2)
    AND (NOT $4::boolean OR acknowledged_at IS NULL)
ORDER BY id DESC
LIMIT $3
