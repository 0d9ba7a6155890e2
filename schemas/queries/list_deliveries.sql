-- Lists deliveries, those of the newest alert first. $1 state, $2 alerts, $3 channels (NULL: any); $4: of windows from this time on
-- (Unix ms); $5: most deliveries.
SELECT d.alert_id, d.channel, d.state, d.attempts, d.due_at, d.outcome, a.rule, a.severity, a.title
FROM auditap.alert_deliveries AS d
JOIN auditap.alerts AS a ON a.id = d.alert_id
WHERE ($1::text IS NULL OR d.state = $1) AND ($2::uuid[] IS NULL OR d.alert_id = ANY ($2))
    AND ($3::text[] IS NULL OR d.channel = ANY ($3)) AND d.alert_id >= auditap.first_id_at($4)
ORDER BY d.alert_id DESC, d.channel
LIMIT $5
