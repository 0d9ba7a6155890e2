-- The stored positions of partitions. Arrays: log, partition, log id; $4: consumer group.
SELECT p.log, p.partition, p.log_id, p.next_offset
FROM auditap.alert_positions AS p
JOIN unnest($1::text[], $2::integer[], $3::text[]) AS given (log, partition, log_id) USING (log, partition, log_id)
WHERE p.consumer_group = $4;
