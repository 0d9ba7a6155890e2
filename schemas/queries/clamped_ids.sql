-- The ids under which events from clocks ahead are stored, by event id.
SELECT event_id, clamped_id FROM auditap.clamped_ids WHERE event_id = ANY($1::uuid[])
