-- Insert dead letters; one that is there already, by its position in the log and its event, changes nothing.
INSERT INTO auditap.dead_letters (
    source_log, source_partition, source_offset, reason, path, event_id, event, received_ms
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
