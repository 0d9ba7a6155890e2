-- Makes a leased delivery due again without counting the attempt. $1 alert; $2 channel; $3 outcome; $4 due again after.
UPDATE auditap.alert_deliveries SET attempts = greatest(attempts - 1, 0), outcome = $3, due_at = now() + $4::interval
WHERE alert_id = $1 AND channel = $2 AND state = 'due';
