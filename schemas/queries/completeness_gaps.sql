-- Gaps that overlap the time range from $1 to $2 (Unix ms, half-open), earliest first, at most $3; and in every row the
-- number of all such gaps and of the captures missing in them, no more than a bigint holds: a tap may claim 2^53 of each of its epochs.
SELECT g.tap_id, g.epoch, g.log, g.partition, g.first, g.last, g.count AS size, g.from_ms, g.to_ms, g.cause,
    count(*) OVER () AS total, least(
        coalesce(sum(g.count) FILTER (WHERE g.cause <> 'offsets_expired') OVER (), 0), 9223372036854775807
    )::bigint AS missing
FROM auditap.completeness_gaps AS g
WHERE g.from_ms < $2 AND (g.to_ms IS NULL OR g.to_ms >= $1)
ORDER BY g.from_ms, g.tap_id, g.epoch, g.first, g.log, g.partition
LIMIT $3
