-- Insert dead letters by their position in the log; inserting one again changes nothing.
INSERT INTO auditap.dead_letters (
    source_log, source_partition, source_offset, reason, path, event_id, event, received_ms
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
