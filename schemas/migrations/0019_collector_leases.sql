-- A lease is granted by a collector. It ends once every collector that granted it has reported past its end, or when nobody waits for
-- them any longer. A collector that delivers old reports late, from its spool, no longer makes the taps that live look cut off.

-- First, because whoever reads the view locks it before its tables: in the other order the two deadlock.
CREATE OR REPLACE VIEW auditap.completeness_counts AS
SELECT
    (SELECT count(*) FROM auditap.tap_due WHERE state = 'alive' AND NOT expired) AS taps_alive,
    (SELECT count(*) FROM auditap.tap_due WHERE state IN ('killed', 'lost') OR expired) AS taps_expired,
    (SELECT count(*) FROM auditap.unnumbered_taps) AS taps_unnumbered,
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.surplus AND NOT e.retired AND e.waits_until_ms >= c.received_ms) AS taps_surplus,
    (SELECT count(*) FROM auditap.tap_epochs WHERE retired) AS taps_retired,
    count(*) AS gaps,
    coalesce(sum(count), 0)::bigint AS missing
FROM auditap.completeness_gaps
WHERE cause <> 'offsets_expired';

-- beats: the heartbeats that were noted. collectors: who granted leases, the latest first.
ALTER TABLE auditap.tap_epochs
    ADD COLUMN beats int8multirange NOT NULL DEFAULT '{}',
    ADD COLUMN collectors text[] NOT NULL DEFAULT '{}';

-- A row for each run of a collector: the time of its latest report, and the log's own time when that was noted.
CREATE TABLE auditap.collectors (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
    received_ms bigint NOT NULL,
    noted_ms bigint NOT NULL
);

-- As before, but a lease is not over while a report that renews it may be on its way: while a collector that granted it
-- still reports, and only about the time before its end. A collector that is silent for give_up_ms is not waited for, nor is any
-- after waits_until_ms, when the watermark passes the tap.
CREATE OR REPLACE VIEW auditap.tap_due AS
SELECT e.tap_id, e.epoch, e.state, e.highest, e.seen, e.dropped, e.oldest_ms, e.latest_ms, e.beat, e.pending_from,
    e.pending_since_ms, e.heard_ms, e.lease_until_ms, e.waits_until_ms,
    lease.expired,
    CASE
        WHEN e.state IN ('killed', 'lost') OR lease.expired OR e.state <> 'alive' AND e.lease_until_ms < clock.received_ms
            THEN e.highest + 1
        ELSE (
            SELECT coalesce(max(m.pending_from), 1)
            FROM auditap.tap_marks AS m
            WHERE m.tap_id = e.tap_id AND m.epoch = e.epoch AND m.heard_ms < clock.received_ms - clock.settle_ms
        )
    END AS until
FROM auditap.tap_epochs AS e
CROSS JOIN auditap.completeness_clock AS clock
CROSS JOIN LATERAL (
    SELECT e.state = 'alive' AND e.lease_until_ms < clock.received_ms AND (
        e.waits_until_ms < clock.received_ms
        OR NOT EXISTS (
            SELECT FROM auditap.collectors AS c
            WHERE c.id = ANY (e.collectors) AND c.received_ms <= e.lease_until_ms
                AND c.noted_ms >= clock.received_ms - clock.give_up_ms
        )
    ) AS expired
) AS lease;

-- As before, with the same leases.
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
    FROM auditap.late_arrivals WHERE held_until_ms > auditap.now_ms()
    HAVING count(*) > 0
    ORDER BY 4 NULLS LAST, 1, 2
    LIMIT greatest(least(rows_max, 1000), 0)
$$;

-- As before, but a tap that is new is waited for from now on in the log's own time, however old its captures are.
CREATE OR REPLACE FUNCTION auditap.note_numbers(
    tap_ids text[], epochs bigint[], numbers text[], oldest bigint[], latest bigint[], received bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    clock auditap.completeness_clock;
    now_ms CONSTANT bigint := auditap.now_ms();
    late_ms bigint;
BEGIN
    -- What is stored late shows within the margin of hold_back, or not at all.
    PERFORM set_config('idle_in_transaction_session_timeout', '5000', true);
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT min(n.oldest_ms) INTO late_ms
    FROM unnest(tap_ids, epochs, numbers, oldest) AS n (tap_id, epoch, numbers, oldest_ms)
    LEFT JOIN auditap.tap_epochs AS e ON e.tap_id = n.tap_id AND e.epoch = n.epoch
    WHERE n.oldest_ms < clock.received_ms - clock.settle_ms / 2 AND (e.seen @> n.numbers::int8multirange) IS NOT TRUE
        AND e.retired IS NOT TRUE;
    IF late_ms IS NOT NULL THEN
        PERFORM auditap.hold_back(late_ms);
    END IF;
    WITH given AS (
        SELECT n.tap_id, n.epoch, n.numbers::int8multirange AS numbers, n.oldest_ms, least(n.latest_ms, now_ms) AS latest_ms,
            least(n.received_ms, now_ms) AS heard_ms, known.epoch IS NULL AS is_new
        FROM unnest(tap_ids, epochs, numbers, oldest, latest, received)
            AS n (tap_id, epoch, numbers, oldest_ms, latest_ms, received_ms)
        LEFT JOIN auditap.tap_epochs AS known ON known.tap_id = n.tap_id AND known.epoch = n.epoch
    ),
    -- Without what this statement adds, which is counted by its place.
    waiting AS MATERIALIZED (
        SELECT tap_id, auditap.count_waiting_epochs(tap_id, clock.received_ms) AS epochs
        FROM (SELECT DISTINCT g.tap_id FROM given AS g WHERE g.is_new) AS taps
    )
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, seen, oldest_ms, latest_ms, heard_ms, lease_until_ms, waits_until_ms, surplus
    )
    SELECT g.tap_id, g.epoch, 'silent', coalesce(upper(g.numbers) - 1, 0), g.numbers, g.oldest_ms, g.latest_ms, g.heard_ms,
        greatest(g.heard_ms, clock.received_ms) + 60000, greatest(g.heard_ms, clock.received_ms) + 60000 + clock.give_up_ms,
        g.is_new AND w.epochs + row_number() OVER (PARTITION BY g.tap_id, g.is_new ORDER BY g.epoch) > 1000
    FROM given AS g
    LEFT JOIN waiting AS w ON w.tap_id = g.tap_id
    ORDER BY g.tap_id, g.epoch
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        seen = e.seen + excluded.seen,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms)
    WHERE NOT e.seen @> excluded.seen;
END
$$;

DROP FUNCTION auditap.note_heartbeat(
    text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, text, bigint, bigint[], bigint[], text[], bigint[], bigint[]
);
-- As before, and which collector received it (NULL: an older one, which does not say). What a heartbeat that was not noted before
-- reports is waited for from now on in the log's own time, however old it is. One that is repeated prolongs nothing.
CREATE FUNCTION auditap.note_heartbeat(
    for_tap text, for_epoch bigint, new_beat bigint, at_ms bigint, started_ms bigint, new_highest bigint,
    new_pending_from bigint, new_pending_since_ms bigint, lease_ms bigint, new_state text, received_ms bigint,
    firsts bigint[], lasts bigint[], causes text[], froms bigint[], tos bigint[], by_collector text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    clock auditap.completeness_clock;
    was auditap.tap_epochs;
    -- A collector's clock that is ahead must not let everyone's leases run out.
    receipt_ms CONSTANT bigint := least(received_ms, auditap.now_ms());
    -- When it counts as noted, in the log's own time.
    noted_ms bigint := receipt_ms;
    leased_ms CONSTANT bigint := least(lease_ms, 86400000);
    leased_until_ms bigint;
    -- Whose last number is known has nothing on its way.
    done_below CONSTANT bigint := CASE WHEN new_state = 'alive' THEN new_pending_from ELSE new_highest + 1 END;
    new_beats int8multirange := int8multirange(int8range(new_beat, new_beat + 1));
    is_surplus boolean := false;
    floor_ms bigint;
BEGIN
    SELECT * INTO clock FROM auditap.completeness_clock;
    SELECT * INTO was FROM auditap.tap_epochs WHERE tap_id = for_tap AND epoch = for_epoch FOR UPDATE;
    IF was.tap_id IS NULL OR was.surplus THEN
        is_surplus := auditap.count_waiting_epochs(for_tap, clock.received_ms) >= 1000;
    END IF;
    floor_ms := auditap.watermark_floor_ms(clock.received_ms, clock.give_up_ms);
    IF is_surplus OR was.retired THEN
        NULL;
    ELSIF was.tap_id IS NULL OR was.beat < 0 THEN
        PERFORM auditap.hold_back(greatest(started_ms, floor_ms));
    ELSIF was.surplus OR was.waits_until_ms < clock.received_ms + clock.settle_ms
        OR new_beat > was.beat AND new_pending_since_ms < was.pending_since_ms THEN
        PERFORM auditap.hold_back(greatest(new_pending_since_ms, floor_ms));
    END IF;
    IF (was.beats @> new_beat) IS NOT TRUE THEN
        noted_ms := greatest(receipt_ms, clock.received_ms);
        new_beats := auditap.fold_beats(coalesce(was.beats, '{}') + new_beats);
    END IF;
    -- The lease of a tap that lives ends by the clock of its collector.
    leased_until_ms := leased_ms + CASE WHEN new_state = 'alive' THEN receipt_ms ELSE noted_ms END;
    INSERT INTO auditap.tap_epochs AS e (
        tap_id, epoch, state, highest, oldest_ms, latest_ms, beat, pending_from, pending_since_ms,
        heard_ms, lease_until_ms, waits_until_ms, surplus, beats, collectors
    )
    VALUES (
        for_tap, for_epoch, new_state, new_highest, started_ms, least(at_ms, receipt_ms), new_beat, done_below, new_pending_since_ms,
        receipt_ms, leased_until_ms, noted_ms + leased_ms + clock.give_up_ms, is_surplus, new_beats,
        CASE WHEN by_collector ~ '^[0-9a-f]{32}$' THEN ARRAY[by_collector] ELSE '{}' END
    )
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        state = CASE WHEN e.state IN ('silent', 'alive') THEN excluded.state ELSE e.state END,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms),
        beat = greatest(e.beat, excluded.beat),
        pending_from = greatest(e.pending_from, excluded.pending_from),
        pending_since_ms = CASE WHEN excluded.beat > e.beat THEN excluded.pending_since_ms ELSE e.pending_since_ms END,
        heard_ms = greatest(e.heard_ms, excluded.heard_ms),
        -- That of a tap without heartbeats is in the log's own time, and no collector granted it.
        lease_until_ms = CASE
            WHEN e.state = 'silent' THEN excluded.lease_until_ms ELSE greatest(e.lease_until_ms, excluded.lease_until_ms)
        END,
        waits_until_ms = greatest(e.waits_until_ms, excluded.waits_until_ms),
        surplus = e.surplus AND excluded.surplus,
        beats = e.beats + excluded.beats,
        -- A tap behind a load balancer has several.
        collectors = (excluded.collectors || array_remove(e.collectors, excluded.collectors[1]))[1:8];
    INSERT INTO auditap.tap_marks AS m (tap_id, epoch, pending_from, pending_since_ms, by_ms, beat, heard_ms)
    VALUES (for_tap, for_epoch, done_below, new_pending_since_ms, at_ms, new_beat, greatest(receipt_ms, clock.received_ms))
    ON CONFLICT (tap_id, epoch, pending_from) DO UPDATE SET
        pending_since_ms = CASE WHEN excluded.beat > m.beat THEN excluded.pending_since_ms ELSE m.pending_since_ms END,
        by_ms = least(m.by_ms, excluded.by_ms),
        beat = greatest(m.beat, excluded.beat),
        heard_ms = least(m.heard_ms, excluded.heard_ms);
    PERFORM auditap.note_drops(for_tap, for_epoch, firsts, lasts, causes, froms, tos);
    -- A mark with no hole on either side bounds nothing.
    DELETE FROM auditap.tap_marks AS m
    USING auditap.tap_epochs AS e, (
        SELECT pending_from,
            lag(pending_from, 1, 1::bigint) OVER (ORDER BY pending_from) AS before,
            lead(pending_from) OVER (ORDER BY pending_from) AS after
        FROM auditap.tap_marks WHERE tap_id = for_tap AND epoch = for_epoch
    ) AS beside
    WHERE m.tap_id = for_tap AND m.epoch = for_epoch AND m.pending_from = beside.pending_from
        AND e.tap_id = for_tap AND e.epoch = for_epoch
        AND beside.after IS NOT NULL
        AND e.seen + e.dropped @> int8range(beside.before, beside.after);
END
$$;

-- The same beats in at most 512 ranges: where there are more, the lower ones count as noted, and so do those between them. Of a tap with
-- two collectors, of which one is behind, every other beat is missing for as long.
CREATE FUNCTION auditap.fold_beats(beats int8multirange) RETURNS int8multirange
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN count(*) <= 512 THEN beats
        ELSE beats + int8multirange(int8range(0, lower((array_agg(run ORDER BY run DESC))[256])))
    END
    FROM unnest(beats) AS run
$$;

DROP FUNCTION auditap.note_time(bigint);
-- Moves the log's own time on to what a collector's clock said, never beyond ours, and notes the latest report of each collector: of
-- 1,000 at once, and of 10,000 in all, beyond which a further one is like a collector that does not say who it is.
CREATE FUNCTION auditap.note_time(latest_ms bigint, by_collectors text[] DEFAULT '{}', at_times bigint[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ms CONSTANT bigint := auditap.now_ms();
    receipt_ms CONSTANT bigint := least(latest_ms, now_ms);
BEGIN
    INSERT INTO auditap.collectors AS c (id, received_ms, noted_ms)
    SELECT given.id, max(least(given.at_ms, now_ms)), max(greatest(clock.received_ms, receipt_ms))
    FROM unnest(by_collectors[1:1000], at_times[1:1000]) AS given (id, at_ms)
    CROSS JOIN auditap.completeness_clock AS clock
    WHERE given.id ~ '^[0-9a-f]{32}$' AND given.at_ms > 0 AND (
        EXISTS (SELECT FROM auditap.collectors AS known WHERE known.id = given.id)
        OR (SELECT count(*) FROM auditap.collectors) <= 9000
    )
    GROUP BY given.id
    ORDER BY given.id
    ON CONFLICT (id) DO UPDATE SET received_ms = excluded.received_ms, noted_ms = greatest(c.noted_ms, excluded.noted_ms)
    WHERE c.received_ms < excluded.received_ms;
    UPDATE auditap.completeness_clock AS clock
    SET received_ms = greatest(clock.received_ms, receipt_ms)
    WHERE clock.received_ms < receipt_ms;
END
$$;

-- As before, and forgets collectors.
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
    DELETE FROM auditap.late_arrivals WHERE held_until_ms <= auditap.now_ms();
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

REVOKE ALL ON FUNCTION auditap.fold_beats(int8multirange), auditap.note_time(bigint, text[], bigint[]),
    auditap.note_heartbeat(
        text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, text, bigint, bigint[], bigint[], text[], bigint[], bigint[],
        text
    ) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auditap.note_time(bigint, text[], bigint[]),
    auditap.note_heartbeat(
        text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, text, bigint, bigint[], bigint[], text[], bigint[], bigint[],
        text
    ) TO auditap_writer;
