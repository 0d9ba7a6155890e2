-- Leases deliveries that are due. $1: at most so many, $2: for how long.
WITH due AS (
    SELECT alert_id, channel FROM auditap.alert_deliveries
    WHERE state = 'due' AND due_at <= now()
    ORDER BY due_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE auditap.alert_deliveries AS d SET attempts = d.attempts + 1, due_at = now() + $2::interval
    FROM due WHERE d.alert_id = due.alert_id AND d.channel = due.channel
    RETURNING d.alert_id, d.channel, d.attempts
)
SELECT taken.*, a.* FROM taken JOIN auditap.alerts AS a ON a.id = taken.alert_id;
