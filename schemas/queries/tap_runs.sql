-- Runs of taps, at most $1, as `auditap.list_tap_runs` lists them, with their gaps by cause: [cause, gaps, missing captures or null].
SELECT r.tap_id, r.epoch, r.state, r.surplus, r.retired, r.heartbeat_ms, r.silent_ms, r.latest_ms, r.captures, r.holds_at_ms, r.runs,
    coalesce(found.gaps, '[]')::text AS gaps
FROM auditap.list_tap_runs($1) WITH ORDINALITY AS r (
    tap_id, epoch, state, surplus, retired, heartbeat_ms, silent_ms, latest_ms, captures, holds_at_ms, runs, number
)
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_array(by_cause.cause, by_cause.gaps, by_cause.missing) ORDER BY by_cause.cause) AS gaps
    FROM (
        SELECT g.cause, count(*) AS gaps,
            CASE WHEN bool_and(g.count IS NOT NULL) THEN least(sum(g.count), 9223372036854775807)::bigint END AS missing
        FROM auditap.completeness_gaps AS g
        WHERE g.tap_id = r.tap_id AND g.epoch = r.epoch
        GROUP BY g.cause
        ORDER BY g.cause
        LIMIT 100
    ) AS by_cause
) AS found ON r.epoch IS NOT NULL
ORDER BY r.number
