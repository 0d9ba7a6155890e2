-- Adds the deliveries of new alerts. Arrays: alert_id, channel.
INSERT INTO auditap.alert_deliveries (alert_id, channel)
SELECT * FROM unnest($1::uuid[], $2::text[])
ON CONFLICT DO NOTHING;
