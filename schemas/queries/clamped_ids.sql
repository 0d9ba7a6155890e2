-- Under which ids those of these events are stored that came from a clock ahead.
SELECT event_id, clamped_id FROM auditap.clamped_ids WHERE event_id = ANY($1::uuid[])
