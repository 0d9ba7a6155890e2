-- Bounds for numbers that no tap and no log has: they overflow nothing, and no single call makes partitions without end. The upkeep locks
-- rows in the order of ingest. No role but the owner can take the locks that ingest and upkeep wait for.

-- First: a pass of the upkeep that runs holds what this migration waits for, and waits for what it holds. The second: whoever stores a
-- batch by the older functions holds the older lock.
SELECT pg_advisory_xact_lock(hashtext('auditap.tidy_completeness')), pg_advisory_xact_lock(hashtext('auditap.clamped_ids'));

-- Then the views, because whoever reads them locks them before their tables. As before, but the sum is at most what a bigint holds.
CREATE OR REPLACE VIEW auditap.completeness_counts AS
SELECT
    (SELECT count(*) FROM auditap.tap_due WHERE state = 'alive' AND NOT expired) AS taps_alive,
    (SELECT count(*) FROM auditap.tap_due WHERE state IN ('killed', 'lost') OR expired) AS taps_expired,
    (SELECT count(*) FROM auditap.unnumbered_taps) AS taps_unnumbered,
    (SELECT count(*) FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c
     WHERE e.surplus AND NOT e.retired AND e.waits_until_ms >= c.received_ms) AS taps_surplus,
    (SELECT count(*) FROM auditap.tap_epochs WHERE retired) AS taps_retired,
    count(*) AS gaps,
    least(coalesce(sum(count), 0), 9223372036854775807)::bigint AS missing
FROM auditap.completeness_gaps
WHERE cause <> 'offsets_expired';
-- Changes nothing, and waits until nobody reads the view.
ALTER VIEW auditap.completeness_gaps RESET (security_barrier);

-- Sequence numbers are from 1 to 2^53 - 1. What is stored is not looked at: NOT VALID. In the order in which ingest locks the tables.
ALTER TABLE auditap.lost_offsets ADD CONSTRAINT lost_offsets_range
    CHECK (first >= 0 AND first <= last AND last < 9223372036854775807) NOT VALID;
ALTER TABLE auditap.tap_epochs ADD CONSTRAINT tap_epochs_range CHECK (
    epoch >= 0 AND highest >= 0 AND highest <= 9007199254740991 AND beat >= -1 AND beat <= 9007199254740991
    AND pending_from >= 1 AND pending_from <= 9007199254740992
    AND int8range(1, 9007199254740992) @> seen AND int8range(1, 9007199254740992) @> dropped
    AND int8range(0, 9007199254740992) @> beats
) NOT VALID;
ALTER TABLE auditap.tap_marks ADD CONSTRAINT tap_marks_range CHECK (
    pending_from >= 1 AND pending_from <= 9007199254740992 AND beat >= 0 AND beat <= 9007199254740991
) NOT VALID;
ALTER TABLE auditap.tap_drops ADD CONSTRAINT tap_drops_range
    CHECK (first >= 1 AND first <= last AND last <= 9007199254740991) NOT VALID;

-- Without rows: the lock on the table is what counts. Any role can take an advisory lock, and none of ours but the owner a lock of
-- these modes.
CREATE TABLE auditap.clamped_ids_lock (only_row boolean PRIMARY KEY);
CREATE TABLE auditap.upkeep_lock (only_row boolean PRIMARY KEY);

-- As before, with a lock that only the owner can take.
CREATE OR REPLACE FUNCTION auditap.hold_clamped_ids(low uuid, high uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE auditap.clamped_ids_lock IN ROW SHARE MODE;
    RETURN EXISTS (SELECT FROM auditap.clamped_ids WHERE event_id BETWEEN low AND high);
END
$$;

-- As before, with a lock that only the owner can take.
CREATE OR REPLACE FUNCTION auditap.note_clamped_ids(event_ids uuid[], clamped_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    low CONSTANT uuid := (SELECT each FROM unnest(event_ids) AS each ORDER BY each LIMIT 1);
    -- The bound of ensure_partitions. With a later one, clamped events would be ignored here and stored under their own ids.
    earliest CONSTANT uuid := auditap.first_id_at(
        greatest(least(auditap.kept_since_ms(3660), auditap.kept_since_ms(0) - 5184000000), 0)
    );
    latest CONSTANT uuid := auditap.first_id_at(auditap.now_ms() + 600000);
BEGIN
    IF NOT EXISTS (
        SELECT FROM unnest(event_ids) AS given (id)
        WHERE NOT EXISTS (SELECT FROM auditap.clamped_ids AS noted WHERE noted.event_id = given.id)
    ) THEN
        RETURN;
    END IF;
    LOCK TABLE auditap.clamped_ids_lock IN EXCLUSIVE MODE;
    INSERT INTO auditap.clamped_ids (event_id, clamped_id)
    SELECT given.id, given.clamped_id
    FROM unnest(event_ids, clamped_ids) AS given (id, clamped_id)
    LEFT JOIN LATERAL (
        SELECT stored.id FROM auditap.audit_records AS stored WHERE stored.id = given.id AND stored.id >= low
        OFFSET 0
    ) AS own ON true
    WHERE own.id IS NULL
        AND auditap.is_uuidv7(given.id)
        AND substring(uuid_send(given.id) FROM 7) = substring(uuid_send(given.clamped_id) FROM 7)
        AND given.clamped_id < given.id AND given.clamped_id BETWEEN earliest AND latest
    ORDER BY given.id, given.clamped_id
    ON CONFLICT DO NOTHING;
END
$$;

-- As before, but for two times that are known, and at most 1,000 partitions of each table at once.
CREATE OR REPLACE FUNCTION auditap.ensure_partitions(from_ms bigint, to_ms bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    day_ms CONSTANT bigint := 86400000;
    now_ms CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    shape auditap.log_shape;
    suffix text;
    step interval;
    starts_at timestamp;
    start_ms bigint;
    end_ms bigint;
    made integer := 0;
    parent text;
    usual text;
    child text;
    attempts integer;
BEGIN
    -- Until the transaction ends, nobody else makes partitions or changes the interval.
    SELECT * INTO STRICT shape FROM auditap.log_shape FOR UPDATE;
    IF from_ms IS NULL OR to_ms IS NULL THEN
        RAISE EXCEPTION 'partitions are made for a range of time with two ends' USING ERRCODE = '22004';
    END IF;
    IF from_ms < 0 OR from_ms < now_ms - greatest(3660, shape.retention_days + 60) * day_ms
        OR to_ms > now_ms + 366 * day_ms
    THEN
        RAISE EXCEPTION 'partitions can be made for what is kept, from 3660 days ago to 366 days ahead'
            USING ERRCODE = '22003';
    END IF;
    suffix := CASE shape.partition_interval
        WHEN 'hour' THEN '"_"YYYYMMDDHH24' WHEN 'day' THEN '"_"YYYYMMDD' ELSE '"_"YYYYMM'
    END;
    step := ('1 ' || shape.partition_interval)::interval;
    IF to_timestamp(to_ms / 1000.0) > to_timestamp(from_ms / 1000.0) + 1000 * step THEN
        RAISE EXCEPTION 'at most 1000 partitions can be made at once' USING ERRCODE = '22003';
    END IF;
    starts_at := date_trunc(shape.partition_interval, to_timestamp(from_ms / 1000) AT TIME ZONE 'UTC');
    LOOP
        start_ms := (extract(epoch FROM starts_at) * 1000)::bigint;
        end_ms := (extract(epoch FROM starts_at + step) * 1000)::bigint;
        EXIT WHEN start_ms > to_ms;
        FOREACH parent IN ARRAY ARRAY['audit_records', 'audit_enrichments'] LOOP
            usual := parent || to_char(starts_at, suffix);
            -- By its name first: where there are thousands of partitions, their bounds are looked at only if it is missing.
            CONTINUE WHEN EXISTS (
                SELECT FROM pg_inherits AS i
                WHERE i.inhrelid = to_regclass('auditap.' || usual) AND i.inhparent = to_regclass('auditap.' || parent)
            ) OR EXISTS (
                SELECT FROM pg_inherits AS i
                JOIN pg_class AS c ON c.oid = i.inhrelid
                WHERE i.inhparent = to_regclass('auditap.' || parent) AND pg_get_expr(c.relpartbound, c.oid) = format(
                    'FOR VALUES FROM (%L) TO (%L)', auditap.first_id_at(start_ms), auditap.first_id_at(end_ms)
                )
            );
            child := usual;
            attempts := 1;
            WHILE to_regclass('auditap.' || child) IS NOT NULL LOOP
                attempts := attempts + 1;
                child := usual || '_' || attempts;
            END LOOP;
            EXECUTE format('CREATE TABLE auditap.%I (LIKE auditap.%I INCLUDING ALL)', child, parent);
            EXECUTE format(
                'ALTER TABLE auditap.%I ATTACH PARTITION auditap.%I FOR VALUES FROM (%L) TO (%L)',
                parent, child, auditap.first_id_at(start_ms), auditap.first_id_at(end_ms)
            );
            made := made + 1;
        END LOOP;
        starts_at := starts_at + step;
    END LOOP;
    RETURN made;
END
$$;

-- As before, but in the order of bytes, in which reports are sorted too: another collation deadlocks with them.
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
    ORDER BY g.tap_id COLLATE "C", g.epoch
    ON CONFLICT (tap_id, epoch) DO UPDATE SET
        seen = e.seen + excluded.seen,
        highest = greatest(e.highest, excluded.highest),
        oldest_ms = least(e.oldest_ms, excluded.oldest_ms),
        latest_ms = greatest(e.latest_ms, excluded.latest_ms)
    WHERE NOT e.seen @> excluded.seen;
END
$$;

-- As before, but it locks in the order of ingest, and folding takes time in proportion to the gaps.
CREATE OR REPLACE FUNCTION auditap.tidy_completeness(
    new_settle_ms bigint, new_give_up_ms bigint, new_hold_ms bigint, keep_ms bigint, holes_max integer
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    due record;
    fold bigint;
    holes_kept CONSTANT integer := least(greatest(coalesce(holes_max, 2000), 50), 2000);
    log_ms bigint;
    forget_before_ms bigint;
    old_taps text[];
    old_epochs bigint[];
    holed_taps text[];
    holed_epochs bigint[];
BEGIN
    BEGIN
        LOCK TABLE auditap.upkeep_lock IN EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN;
    END;
    SELECT received_ms INTO STRICT log_ms FROM auditap.completeness_clock;
    forget_before_ms := least(log_ms, auditap.now_ms()) - greatest(keep_ms, 2592000000);
    DELETE FROM auditap.late_arrivals WHERE held_until_ms <= auditap.hold_clock_ms();
    -- Held by a clock that was ahead, and is not any more.
    UPDATE auditap.late_arrivals AS late SET held_until_ms = greatest(auditap.now_ms(), log_ms) + clock.hold_ms
    FROM auditap.completeness_clock AS clock
    WHERE late.held_until_ms > greatest(auditap.now_ms(), log_ms) + clock.hold_ms;
    -- In the order of ingest, or the two deadlock: lost offsets, epochs by tap and epoch, taps without numbers, collectors, the clock.
    -- Rows that ingest has locked, beside epochs, are left for the next time.
    WITH forgotten AS (
        DELETE FROM auditap.lost_offsets WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM auditap.lost_offsets WHERE to_ms < forget_before_ms FOR UPDATE SKIP LOCKED
        )) RETURNING *
    )
    INSERT INTO auditap.closed_gaps (log, partition, cause, gaps, missing, from_ms, to_ms)
    SELECT log, partition, 'offsets_expired', count(*), least(sum(last::numeric - first + 1), 9223372036854775807),
        min(from_ms), max(to_ms)
    FROM forgotten GROUP BY log, partition;
    -- Locked first: a report that arrives between the two statements would keep an epoch whose gaps have been closed.
    SELECT array_agg(e.tap_id) FILTER (WHERE e.is_old), array_agg(e.epoch) FILTER (WHERE e.is_old),
        array_agg(e.tap_id) FILTER (WHERE NOT e.is_old), array_agg(e.epoch) FILTER (WHERE NOT e.is_old)
    INTO old_taps, old_epochs, holed_taps, holed_epochs
    FROM (
        SELECT t.tap_id, t.epoch, t.heard_ms < forget_before_ms AND t.latest_ms < forget_before_ms AS is_old
        FROM auditap.tap_epochs AS t
        WHERE t.heard_ms < forget_before_ms AND t.latest_ms < forget_before_ms
            OR (SELECT count(*) FROM unnest(t.seen)) > holes_kept
        ORDER BY t.tap_id COLLATE "C", t.epoch FOR UPDATE
    ) AS e;
    IF old_taps IS NOT NULL THEN
        INSERT INTO auditap.closed_gaps (tap_id, epoch, cause, gaps, missing, from_ms, to_ms)
        SELECT g.tap_id, g.epoch, g.cause, count(*),
            CASE WHEN bool_and(g.count IS NOT NULL) THEN least(sum(g.count), 9223372036854775807) END, min(g.from_ms), max(g.to_ms)
        FROM auditap.completeness_gaps AS g
        JOIN unnest(old_taps, old_epochs) AS old (tap_id, epoch) ON old.tap_id = g.tap_id AND old.epoch = g.epoch
        GROUP BY g.tap_id, g.epoch, g.cause;
        DELETE FROM auditap.tap_epochs AS e
        USING unnest(old_taps, old_epochs) AS old (tap_id, epoch)
        WHERE e.tap_id = old.tap_id AND e.epoch = old.epoch;
    END IF;
    FOR one IN
        SELECT holed.tap_id, holed.epoch FROM unnest(holed_taps, holed_epochs) AS holed (tap_id, epoch)
    LOOP
        SELECT d.seen, d.until INTO due FROM auditap.tap_due AS d WHERE d.tap_id = one.tap_id AND d.epoch = one.epoch;
        SELECT least(lower((array_agg(run ORDER BY run DESC))[holes_kept / 2 + 1]), due.until) INTO fold
        FROM unnest(due.seen) AS run;
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
    DELETE FROM auditap.unnumbered_taps WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM auditap.unnumbered_taps WHERE latest_ms < forget_before_ms FOR UPDATE SKIP LOCKED
    ));
    -- A collector that was silent for longer than anyone waits.
    DELETE FROM auditap.collectors WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM auditap.collectors WHERE noted_ms < log_ms - 86400000 FOR UPDATE SKIP LOCKED
    ));
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
