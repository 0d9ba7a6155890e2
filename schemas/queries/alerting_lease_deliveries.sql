-- Leases due deliveries. $1: most deliveries; $2: length of the lease; $3: channels that get none.
WITH due AS (
    SELECT alert_id, channel FROM auditap.alert_deliveries
    WHERE state = 'due' AND due_at <= now() AND channel <> ALL ($3::text[])
    ORDER BY due_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE auditap.alert_deliveries AS d SET attempts = d.attempts + 1, due_at = now() + $2::interval
    FROM due WHERE d.alert_id = due.alert_id AND d.channel = due.channel
    RETURNING d.alert_id, d.channel, d.attempts
)
SELECT leased.*, a.* FROM leased JOIN auditap.alerts AS a ON a.id = leased.alert_id;
