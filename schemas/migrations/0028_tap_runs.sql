-- What the log API shows of taps and dead letters: through functions with bounds, so that its role reads neither the ledger nor events.

-- Counts by reason from the index alone, and finds the oldest and newest without reading an event.
CREATE INDEX dead_letters_unresolved_age ON auditap.dead_letters (reason, dead_lettered_at) WHERE state = 'unresolved';
DROP INDEX auditap.dead_letters_unresolved_reason;

-- Runs of taps: first those that hold the watermark, earliest first, then those heard last. After them, taps without sequence numbers.
-- Times are Unix ms by auditap's clocks, except latest_ms. heartbeat_ms is NULL without a heartbeat. silent_ms: for how long nothing of
-- the run has been noted, by the database's clock. runs: how many there are in all.
CREATE FUNCTION auditap.list_tap_runs(runs_max integer)
RETURNS TABLE (
    tap_id text, epoch bigint, state text, surplus boolean, retired boolean, heartbeat_ms bigint, silent_ms bigint, latest_ms bigint,
    captures bigint, holds_at_ms bigint, runs bigint
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH holding AS (
        SELECT b.tap_id, b.epoch, min(b.at_ms) AS at_ms
        FROM auditap.completeness_clock AS clock
        CROSS JOIN LATERAL auditap.watermark_bounds(clock.received_ms, clock.give_up_ms) AS b
        GROUP BY b.tap_id, b.epoch
    ),
    chosen AS MATERIALIZED (
        SELECT e.tap_id, e.epoch, e.surplus, e.retired, e.beat, e.heard_ms, e.latest_ms, e.highest, h.at_ms
        FROM auditap.tap_epochs AS e
        LEFT JOIN holding AS h ON h.tap_id = e.tap_id AND h.epoch = e.epoch
        ORDER BY h.at_ms NULLS LAST, e.heard_ms DESC, e.tap_id COLLATE "C", e.epoch DESC
        LIMIT greatest(least(runs_max, 1000), 0)
    ),
    shown AS (
        SELECT c.tap_id, c.epoch, due.state, c.surplus, c.retired, c.beat, c.heard_ms, c.latest_ms, c.highest, c.at_ms
        FROM chosen AS c
        CROSS JOIN LATERAL (
            SELECT CASE WHEN d.expired THEN 'expired' ELSE d.state END AS state
            FROM auditap.tap_due AS d WHERE d.tap_id = c.tap_id AND d.epoch = c.epoch
        ) AS due
        UNION ALL
        (
            SELECT u.tap_id, NULL, 'unnumbered', false, false, -1, u.latest_ms, u.latest_ms, NULL, NULL
            FROM auditap.unnumbered_taps AS u
            ORDER BY u.latest_ms DESC, u.tap_id COLLATE "C"
            LIMIT greatest(least(runs_max, 1000), 0)
        )
    )
    SELECT s.tap_id, s.epoch, s.state, s.surplus, s.retired, CASE WHEN s.beat >= 0 THEN s.heard_ms END,
        greatest(auditap.now_ms() - s.heard_ms, 0), s.latest_ms, s.highest, s.at_ms,
        (SELECT count(*) FROM auditap.tap_epochs) + (SELECT count(*) FROM auditap.unnumbered_taps)
    FROM shown AS s
    ORDER BY s.epoch IS NULL, s.at_ms NULLS LAST, s.heard_ms DESC, s.tap_id COLLATE "C", s.epoch DESC
    LIMIT greatest(least(runs_max, 1000), 0)
$$;
REVOKE EXECUTE ON FUNCTION auditap.list_tap_runs(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.list_tap_runs(integer) TO auditap_reader;

-- Unresolved dead letters by reason, in order of the reasons, the first 100 of them: the number, counted to count_max, and the times
-- of the oldest and the newest one. Nothing of an event.
CREATE FUNCTION auditap.summarize_dead_letters(count_max integer)
RETURNS TABLE (reason text, dead_letters bigint, oldest timestamptz, newest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE reasons AS (
        (
            SELECT d.reason, 1 AS number FROM auditap.dead_letters AS d
            WHERE d.state = 'unresolved' ORDER BY d.reason LIMIT 1
        )
        UNION ALL
        SELECT next.reason, r.number + 1
        FROM reasons AS r
        CROSS JOIN LATERAL (
            SELECT d.reason FROM auditap.dead_letters AS d
            WHERE d.state = 'unresolved' AND d.reason > r.reason ORDER BY d.reason LIMIT 1
        ) AS next
        WHERE r.number < 100
    )
    SELECT r.reason, counted.dead_letters, oldest.at, newest.at
    FROM reasons AS r
    CROSS JOIN LATERAL (
        SELECT count(*) AS dead_letters FROM (
            SELECT FROM auditap.dead_letters AS d WHERE d.state = 'unresolved' AND d.reason = r.reason
            LIMIT greatest(least(count_max, 100000), 0)
        ) AS first_of_reason
    ) AS counted
    CROSS JOIN LATERAL (
        SELECT min(d.dead_lettered_at) AS at FROM auditap.dead_letters AS d WHERE d.state = 'unresolved' AND d.reason = r.reason
    ) AS oldest
    CROSS JOIN LATERAL (
        SELECT max(d.dead_lettered_at) AS at FROM auditap.dead_letters AS d WHERE d.state = 'unresolved' AND d.reason = r.reason
    ) AS newest
    ORDER BY r.reason
$$;
REVOKE EXECUTE ON FUNCTION auditap.summarize_dead_letters(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.summarize_dead_letters(integer) TO auditap_reader;
