-- How far lanes are watched. Arrays: log, partition; $3: whose.
SELECT p.log, p.partition, p.next_offset
FROM auditap.watch_positions AS p
JOIN unnest($1::text[], $2::integer[]) AS given (log, partition) USING (log, partition)
WHERE p.watcher = $3;
