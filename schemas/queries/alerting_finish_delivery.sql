-- Stores the outcome of a delivery attempt. $1 alert; $2 channel; $3 state; $4 outcome; $5 due again after.
UPDATE auditap.alert_deliveries SET state = $3, outcome = $4, due_at = now() + $5::interval
WHERE alert_id = $1 AND channel = $2;
