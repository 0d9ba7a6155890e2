-- The watermark stays back for its hold by two clocks: this database's, and the log's own time, which goes by those of the collectors and
-- ingestors. One of them that jumps ends no hold early.

-- The time by which a hold ends: that of the clock that is behind.
CREATE FUNCTION auditap.hold_clock_ms() RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT least(auditap.now_ms(), clock.received_ms) FROM auditap.completeness_clock AS clock $$;

-- As before, but from the clock that is ahead on, so that the hold lasts by both. A database that is ahead of the log by more than a week
-- is so by its clock, not because of a backlog: it holds nothing for longer.
CREATE OR REPLACE FUNCTION auditap.hold_back(oldest_ms bigint) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO auditap.late_arrivals (held_until_ms, oldest_ms)
    SELECT least(greatest(auditap.now_ms(), clock.received_ms), clock.received_ms + 604800000) + clock.hold_ms,
        hold_back.oldest_ms
    FROM auditap.completeness_clock AS clock
    WHERE hold_back.oldest_ms < auditap.complete_before(clock.settle_ms / 2)
$$;

-- As before, with these holds.
CREATE OR REPLACE FUNCTION auditap.complete_before(ahead_ms bigint DEFAULT 0) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH clock AS (
        SELECT received_ms + ahead_ms AS at_ms, settle_ms, give_up_ms FROM auditap.completeness_clock
    ),
    bounds AS (
        SELECT b.at_ms FROM clock CROSS JOIN LATERAL auditap.watermark_bounds(clock.at_ms, clock.give_up_ms) AS b
        UNION ALL
        SELECT oldest_ms FROM auditap.late_arrivals WHERE held_until_ms > auditap.hold_clock_ms()
        UNION ALL
        SELECT at_ms - settle_ms FROM clock
    )
    SELECT CASE
        WHEN EXISTS (SELECT FROM auditap.tap_epochs AS e WHERE NOT e.surplus AND NOT e.retired) THEN greatest(min(at_ms), 0)
    END
    FROM bounds
$$;

-- As before, with these holds.
CREATE OR REPLACE FUNCTION auditap.list_watermark_bounds(rows_max integer)
RETURNS TABLE (tap_id text, epoch bigint, state text, bound_ms bigint, surplus boolean, retired boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH holding AS (
        SELECT b.tap_id, b.epoch, min(b.at_ms) AS bound_ms
        FROM auditap.completeness_clock AS clock
        CROSS JOIN LATERAL auditap.watermark_bounds(clock.received_ms, clock.give_up_ms) AS b
        GROUP BY b.tap_id, b.epoch
    )
    SELECT e.tap_id, e.epoch, CASE WHEN due.expired THEN 'expired' ELSE e.state END, h.bound_ms, e.surplus, e.retired
    FROM auditap.tap_epochs AS e
    JOIN auditap.tap_due AS due ON due.tap_id = e.tap_id AND due.epoch = e.epoch
    CROSS JOIN auditap.completeness_clock AS clock
    LEFT JOIN holding AS h ON h.tap_id = e.tap_id AND h.epoch = e.epoch
    WHERE h.tap_id IS NOT NULL OR e.retired OR e.surplus AND e.waits_until_ms >= clock.received_ms
    UNION ALL
    SELECT NULL, NULL, 'late', min(oldest_ms), false, false
    FROM auditap.late_arrivals WHERE held_until_ms > auditap.hold_clock_ms()
    HAVING count(*) > 0
    ORDER BY 4 NULLS LAST, 1, 2
    LIMIT greatest(least(rows_max, 1000), 0)
$$;

-- As before, with these holds.
CREATE OR REPLACE FUNCTION auditap.tidy_completeness(
    new_settle_ms bigint, new_give_up_ms bigint, new_hold_ms bigint, keep_ms bigint, holes_max integer
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    fold bigint;
    holes_kept CONSTANT integer := least(greatest(coalesce(holes_max, 2000), 50), 2000);
    log_ms bigint;
    forget_before_ms bigint;
    old_taps text[];
    old_epochs bigint[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('auditap.tidy_completeness')) THEN
        RETURN;
    END IF;
    SELECT received_ms INTO STRICT log_ms FROM auditap.completeness_clock;
    forget_before_ms := least(log_ms, auditap.now_ms()) - greatest(keep_ms, 2592000000);
    DELETE FROM auditap.late_arrivals WHERE held_until_ms <= auditap.hold_clock_ms();
    -- Held by a clock that was ahead, and is not any more.
    UPDATE auditap.late_arrivals AS late SET held_until_ms = greatest(auditap.now_ms(), log_ms) + clock.hold_ms
    FROM auditap.completeness_clock AS clock
    WHERE late.held_until_ms > greatest(auditap.now_ms(), log_ms) + clock.hold_ms;
    DELETE FROM auditap.unnumbered_taps WHERE latest_ms < forget_before_ms;
    WITH forgotten AS (
        DELETE FROM auditap.lost_offsets WHERE to_ms < forget_before_ms RETURNING *
    )
    INSERT INTO auditap.closed_gaps (log, partition, cause, gaps, missing, from_ms, to_ms)
    SELECT log, partition, 'offsets_expired', count(*), sum(last - first + 1), min(from_ms), max(to_ms)
    FROM forgotten GROUP BY log, partition;
    -- Locked first: a report that arrives between the two statements would keep an epoch whose gaps have been closed.
    SELECT array_agg(old.tap_id), array_agg(old.epoch) INTO old_taps, old_epochs
    FROM (
        SELECT e.tap_id, e.epoch FROM auditap.tap_epochs AS e
        WHERE e.heard_ms < forget_before_ms AND e.latest_ms < forget_before_ms
        ORDER BY e.tap_id, e.epoch FOR UPDATE
    ) AS old;
    IF old_taps IS NOT NULL THEN
        INSERT INTO auditap.closed_gaps (tap_id, epoch, cause, gaps, missing, from_ms, to_ms)
        SELECT g.tap_id, g.epoch, g.cause, count(*),
            CASE WHEN bool_and(g.count IS NOT NULL) THEN sum(g.count) END, min(g.from_ms), max(g.to_ms)
        FROM auditap.completeness_gaps AS g
        JOIN unnest(old_taps, old_epochs) AS old (tap_id, epoch) ON old.tap_id = g.tap_id AND old.epoch = g.epoch
        GROUP BY g.tap_id, g.epoch, g.cause;
        DELETE FROM auditap.tap_epochs AS e
        USING unnest(old_taps, old_epochs) AS old (tap_id, epoch)
        WHERE e.tap_id = old.tap_id AND e.epoch = old.epoch;
    END IF;
    FOR one IN
        SELECT tap_id, epoch FROM auditap.tap_epochs
        WHERE (SELECT count(*) FROM unnest(seen)) > holes_kept ORDER BY tap_id, epoch
    LOOP
        PERFORM FROM auditap.tap_epochs WHERE tap_id = one.tap_id AND epoch = one.epoch FOR UPDATE;
        SELECT least(lower(run), due.until) INTO fold
        FROM auditap.tap_due AS due, unnest(due.seen) WITH ORDINALITY AS runs (run, place)
        WHERE due.tap_id = one.tap_id AND due.epoch = one.epoch
            AND place = (SELECT count(*) FROM unnest(due.seen)) - holes_kept / 2;
        -- Without a number to fold below, everything would count as seen.
        CONTINUE WHEN fold IS NULL;
        INSERT INTO auditap.tap_folded_gaps AS f
        SELECT g.tap_id, g.epoch, 1, fold - 1, sum(g.count), g.cause, min(g.from_ms), max(g.to_ms)
        FROM auditap.completeness_gaps AS g
        WHERE g.tap_id = one.tap_id AND g.epoch = one.epoch AND g.last < fold
        GROUP BY g.tap_id, g.epoch, g.cause
        ON CONFLICT (tap_id, epoch, first, cause) DO UPDATE SET
            -- What was folded before is among the gaps that are summed.
            last = excluded.last, count = excluded.count, from_ms = excluded.from_ms, to_ms = excluded.to_ms;
        DELETE FROM auditap.tap_drops WHERE tap_id = one.tap_id AND epoch = one.epoch AND last < fold;
        UPDATE auditap.tap_epochs SET seen = seen + int8multirange(int8range(1, fold))
        WHERE tap_id = one.tap_id AND epoch = one.epoch;
    END LOOP;
    -- A collector that was silent for longer than anyone waits.
    DELETE FROM auditap.collectors WHERE noted_ms < log_ms - 86400000;
    -- Last, as in a batch of reports: whoever locks the clock before the epochs deadlocks with it.
    UPDATE auditap.completeness_clock AS clock
    SET settle_ms = asked.settle_ms, give_up_ms = asked.give_up_ms, hold_ms = asked.hold_ms
    FROM (SELECT
        least(greatest(new_settle_ms, 0), 3600000) AS settle_ms,
        least(greatest(new_give_up_ms, 0), 86400000) AS give_up_ms,
        least(greatest(new_hold_ms, 60000), 86400000) AS hold_ms
    ) AS asked
    WHERE (clock.settle_ms, clock.give_up_ms, clock.hold_ms)
        IS DISTINCT FROM (asked.settle_ms, asked.give_up_ms, asked.hold_ms);
END
$$;

REVOKE ALL ON FUNCTION auditap.hold_clock_ms() FROM PUBLIC;
