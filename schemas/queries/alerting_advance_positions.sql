-- Moves positions forward; returns a row for each that was where it should be. Arrays: log, partition, from, to; $5: consumer group.
INSERT INTO auditap.alert_positions AS p (consumer_group, log, partition, next_offset)
SELECT $5, given.log, given.partition, given.next_offset
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[])
    AS given (log, partition, from_offset, next_offset)
ON CONFLICT (consumer_group, log, partition) DO UPDATE SET next_offset = excluded.next_offset
    WHERE (p.log, p.partition, p.next_offset) IN (
        SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[])
    )
RETURNING p.log, p.partition;
