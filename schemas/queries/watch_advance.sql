-- Moves positions on from where they were; returns a row for each that moved. Arrays: log, partition, from, to; $5: whose.
INSERT INTO auditap.watch_positions AS p (watcher, log, partition, next_offset)
SELECT $5, given.log, given.partition, given.next_offset
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[])
    AS given (log, partition, from_offset, next_offset)
ON CONFLICT (watcher, log, partition) DO UPDATE SET next_offset = excluded.next_offset
    WHERE (p.log, p.partition, p.next_offset) IN (
        SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[])
    )
RETURNING p.log, p.partition;
