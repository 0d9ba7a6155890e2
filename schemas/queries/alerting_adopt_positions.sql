-- Gives the positions that a log's name $2 has without an id to the log with the id $3, unless one with an id has a position already.
-- $1: consumer group.
UPDATE auditap.alert_positions AS p SET log_id = $3
WHERE (p.consumer_group, p.log, p.log_id) = ($1, $2, '')
    AND NOT EXISTS (
        SELECT FROM auditap.alert_positions AS other
        WHERE (other.consumer_group, other.log) = ($1, $2) AND other.log_id <> ''
    );
