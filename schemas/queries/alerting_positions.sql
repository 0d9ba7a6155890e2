-- The stored positions of partitions. Arrays: log, partition; $3: consumer group.
SELECT p.log, p.partition, p.next_offset
FROM auditap.alert_positions AS p
JOIN unnest($1::text[], $2::integer[]) AS given (log, partition) USING (log, partition)
WHERE p.consumer_group = $3;
