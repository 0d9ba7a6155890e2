-- The deliveries of an alert, by channel, at most 100. $1: the alert's id; $2: its account.
SELECT d.channel, d.state, d.attempts, d.due_at, d.outcome
FROM auditap.alert_deliveries AS d
JOIN auditap.alerts AS a ON a.id = d.alert_id
WHERE a.id = $1 AND a.account_id = $2
ORDER BY d.channel
LIMIT 100
