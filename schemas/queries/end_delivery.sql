-- Notes how a delivery went. $1 alert, $2 channel, $3 state, $4 outcome, $5 when it is due again.
UPDATE auditap.alert_deliveries SET state = $3, outcome = $4, due_at = now() + $5::interval
WHERE alert_id = $1 AND channel = $2;
