-- Moves positions forward; returns a row for each that was where it should be. Arrays: log, partition, log id, from, to; $6: consumer group.
INSERT INTO auditap.alert_positions AS p (consumer_group, log, partition, log_id, next_offset)
SELECT $6, given.log, given.partition, given.log_id, given.next_offset
FROM unnest($1::text[], $2::integer[], $3::text[], $4::bigint[], $5::bigint[])
    AS given (log, partition, log_id, from_offset, next_offset)
ON CONFLICT (consumer_group, log, partition, log_id) DO UPDATE SET next_offset = excluded.next_offset
    WHERE (p.log, p.partition, p.log_id, p.next_offset) IN (
        SELECT * FROM unnest($1::text[], $2::integer[], $3::text[], $4::bigint[])
    )
RETURNING p.log, p.partition;
